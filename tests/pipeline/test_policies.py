"""Who may become the pipeline's roles, and what they may do: by IAM's rules, over pipeline/oidc.yaml as it is."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.rendering import load_yaml, render
from tests.helpers.support import TEMPLATE, Bake, defaults
from tests.pipeline.policies import PSEUDO, Template, admits, allows, listed, statements

OIDC = TEMPLATE / "pipeline" / "oidc.yaml"
ISSUER = "token.actions.githubusercontent.com"
PROVIDER = "arn:aws:iam::123456789012:oidc-provider/" + ISSUER
GIVEN = {
    "Environment": "production",
    "Repository": "octo-org/stream.py",
    "Branch": "main",
    "StackName": "lambda-stream-production",
    "NamePrefix": "lambda-stream-production",
    "ProviderArn": PROVIDER,
}
IDS = {"OwnerId": "4242", "RepositoryId": "1001"}
SERVICES = ("Bedrock", "CloudFront", "CodeDeploy", "CloudWatch", "Image", "Logs", "RestApi", "Sns", "XRay")
EVERYTHING = dict.fromkeys(SERVICES, "yes")

# Claims of a token that has to be admitted, in the two forms that GitHub has for the subject.
NAMES = {
    "aud": "sts.amazonaws.com",
    "sub": "repo:octo-org/stream.py:environment:production",
    "repository_id": "1001",
    "ref": "refs/heads/main",
}
NUMBERS = {**NAMES, "sub": "repo:octo-org@4242/stream.py@1001:environment:production"}

Claims = Mapping[str, str | None]
# What is different in a token that has to be refused, by why.
REFUSED: dict[str, Claims] = {
    "another environment": {"sub": "repo:octo-org/stream.py:environment:staging"},
    "another environment, numbers": {"sub": "repo:octo-org@4242/stream.py@1001:environment:staging"},
    "an environment of a longer name": {"sub": "repo:octo-org/stream.py:environment:production-2"},
    "no environment": {"sub": "repo:octo-org/stream.py:ref:refs/heads/main"},
    "a pull request": {"sub": "repo:octo-org/stream.py:pull_request"},
    "a branch of that name": {"sub": "repo:octo-org/stream.py:ref:refs/heads/environment:production"},
    "a fork": {"sub": "repo:mallory/stream.py:environment:production", "repository_id": "666"},
    "another repository": {"sub": "repo:octo-org/other:environment:production", "repository_id": "1002"},
    "a repository of a longer name": {"sub": "repo:octo-org/stream.py2:environment:production"},
    "a name that a pattern would take": {"sub": "repo:octo-org/streamXpy:environment:production"},
    "another case": {"sub": "repo:Octo-Org/stream.py:environment:production"},
    "a wildcard": {"sub": "repo:octo-org/*:environment:production"},
    "another owner's number": {"sub": "repo:octo-org@6/stream.py@1001:environment:production"},
    "another repository's number": {"sub": "repo:octo-org@4242/stream.py@6:environment:production"},
    "the name taken over by another repository": {"repository_id": "666"},
    "the wrong branch": {"ref": "refs/heads/feature"},
    "a tag": {"ref": "refs/tags/main"},
    "another audience": {"aud": "https://github.com/octo-org"},
    "no audience": {"aud": None},
    "no subject": {"sub": None},
    "no branch": {"ref": None},
    "no number": {"repository_id": None},
    "no claims": dict.fromkeys(NAMES),
}


def admitted(role: str, claims: Claims, **parameters: str) -> bool:
    context = {f"{ISSUER}:{name}": value for name, value in claims.items() if value is not None}
    trust = Template(OIDC, **{**GIVEN, **parameters}).trust(role)
    return admits(trust, "sts:AssumeRoleWithWebIdentity", {"Federated": PROVIDER}, context)


@pytest.mark.parametrize("claims", [NAMES, NUMBERS], ids=["names", "numbers"])
def test_the_right_token_becomes_the_deploy_role(claims: Claims) -> None:
    """Both forms of the subject, from the right environment and branch."""
    assert admitted("DeployRole", claims, **IDS)


@pytest.mark.parametrize("difference", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("claims", [NAMES, NUMBERS], ids=["names", "numbers"])
def test_every_other_token_is_refused(claims: Claims, difference: Claims) -> None:
    """One claim is different or missing: the role stays closed."""
    assert not admitted("DeployRole", {**claims, **difference}, **IDS)


def test_without_numbers_only_the_names_are_trusted() -> None:
    """As for a repository whose numbers `make pipeline` could not learn."""
    assert admitted("DeployRole", {**NAMES, "repository_id": None})
    assert not admitted("DeployRole", NUMBERS)
    assert not admitted("DeployRole", {**NAMES, "sub": "repo:octo-org@/stream.py@:environment:production"})
    assert not admitted("DeployRole", {**NAMES, "ref": "refs/heads/feature"})


def test_a_preview_may_come_from_any_branch_of_the_repository() -> None:
    """A pull request's ref is that of its merge; the subject still names repository and environment."""
    parameters = {**IDS, "Environment": "preview", "Branch": "", "StackName": "lambda-stream-pr-*"}
    claims: Claims = {**NAMES, "sub": "repo:octo-org/stream.py:environment:preview", "ref": "refs/pull/7/merge"}
    assert admitted("DeployRole", claims, **parameters)
    assert not admitted("DeployRole", NAMES, **parameters)
    assert not admitted("DeployRole", {**claims, "repository_id": "666"}, **parameters)
    assert "DriftRole" not in Template(OIDC, **{**GIVEN, **parameters}).resources()


def test_the_drift_role_is_for_the_branch_outside_of_environments() -> None:
    """A schedule runs on the default branch, and its job has no environment."""
    names: Claims = {**NAMES, "sub": "repo:octo-org/stream.py:ref:refs/heads/main"}
    numbers: Claims = {**NAMES, "sub": "repo:octo-org@4242/stream.py@1001:ref:refs/heads/main"}
    assert admitted("DriftRole", names, **IDS)
    assert admitted("DriftRole", numbers, **IDS)
    for wrong in (
        NAMES,
        {**names, "sub": "repo:octo-org/stream.py:ref:refs/heads/feature"},
        {**names, "sub": "repo:mallory/stream.py:ref:refs/heads/main", "repository_id": "666"},
        {**names, "sub": "repo:octo-org/stream.py:pull_request"},
        {**names, "aud": None},
        {**names, "repository_id": None},
    ):
        assert not admitted("DriftRole", wrong, **IDS)


def test_nobody_but_github_and_cloudformation_may_become_a_role() -> None:
    """The principals, and that no statement of trust is without the audience and an exact subject."""
    resources = Template(OIDC, **GIVEN, **IDS, **EVERYTHING).resources()
    roles = {name: value["Properties"] for name, value in resources.items() if value["Type"] == "AWS::IAM::Role"}
    assert roles.keys() == {"DeployRole", "DriftRole", "CloudFormationRole"}
    for name, role in roles.items():
        for statement in statements(role["AssumeRolePolicyDocument"]):
            if name == "CloudFormationRole":
                assert statement["Principal"] == {"Service": "cloudformation.amazonaws.com"}
            else:
                assert statement["Principal"] == {"Federated": PROVIDER}
                assert statement["Condition"].keys() == {"StringEquals"}
                assert {f"{ISSUER}:aud", f"{ISSUER}:sub"} <= statement["Condition"]["StringEquals"].keys()


ACCOUNT = "123456789012"
FUNCTION = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:lambda-stream-production-StreamFunction-1A2B3C4D5E6F"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/lambda-stream-production-StreamFunctionRole-1A2B3C4D5E6F"
BOUNDARY = "arn:aws:::Boundary"


def may(role: str, action: str, resource: str, context: Mapping[str, str] | None = None, **parameters: str) -> bool:
    return allows(Template(OIDC, **{**GIVEN, **IDS, **parameters}).policies(role), action, resource, context)


def test_the_pipeline_cannot_give_itself_more() -> None:
    """No role without the boundary, none of the pipeline's own touched, none handed to another service."""
    bounded = {"iam:PermissionsBoundary": BOUNDARY}
    for action in ("iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:PutRolePermissionsBoundary"):
        assert may("CloudFormationRole", action, ROLE, bounded)
        assert not may("CloudFormationRole", action, ROLE)
        assert not may("CloudFormationRole", action, ROLE, {"iam:PermissionsBoundary": "arn:aws:iam::aws:policy/Any"})
    own = f"arn:aws:iam::{ACCOUNT}:role/pipeline/pipeline-lambda-stream-production-DeployRole-1A2B3C4D5E6F"
    policy = f"arn:aws:iam::{ACCOUNT}:policy/pipeline/pipeline-lambda-stream-production-Boundary-1A2B3C4D5E6F"
    admin = f"arn:aws:iam::{ACCOUNT}:role/admin"
    for role in ("DeployRole", "CloudFormationRole", "DriftRole"):
        for action in ("iam:DeleteRolePermissionsBoundary", "iam:CreatePolicyVersion", "iam:CreateUser"):
            for resource in (ROLE, own, policy, admin, "*"):
                assert not may(role, action, resource, bounded, **EVERYTHING)
        for action in ("iam:UpdateAssumeRolePolicy", "iam:PutRolePolicy", "iam:PassRole", "iam:DeleteRole"):
            for resource in (own, admin):
                assert not may(role, action, resource, {**bounded, "iam:PassedToService": "lambda.amazonaws.com"})
    assert may("CloudFormationRole", "iam:PassRole", ROLE, {"iam:PassedToService": "lambda.amazonaws.com"})
    assert not may("CloudFormationRole", "iam:PassRole", ROLE, {"iam:PassedToService": "ec2.amazonaws.com"})
    assert not may("CloudFormationRole", "iam:PassRole", ROLE)


@pytest.mark.parametrize("slug", ["pipeline", "pipeline-lambda-stream", "pipeline-" + "x" * 31])
def test_no_projects_name_reaches_the_roles_of_a_pipeline(slug: str) -> None:
    """The pipeline's roles have a path, which the names of a stack's own roles cannot have."""
    own = f"arn:aws:iam::{ACCOUNT}:role/pipeline/pipeline-{slug}-production-DeployRole-1A2B3C4D5E6F"
    prefix = f"{slug}-production"[:24]
    assert not may("CloudFormationRole", "iam:UpdateAssumeRolePolicy", own, NamePrefix=prefix)
    assert may(
        "CloudFormationRole", "iam:UpdateAssumeRolePolicy", f"arn:aws:iam::{ACCOUNT}:role/{prefix}-R", NamePrefix=prefix
    )


def test_an_environment_does_not_reach_another() -> None:
    """Neither its stack nor what is in it, nor a deployment without CloudFormation's own role."""
    stack = f"arn:aws:cloudformation:us-east-1:{ACCOUNT}:stack/lambda-stream-production/1"
    other = f"arn:aws:cloudformation:us-east-1:{ACCOUNT}:stack/lambda-stream-staging/1"
    role = {"cloudformation:RoleArn": "arn:aws:::CloudFormationRole"}
    assert may("DeployRole", "cloudformation:CreateChangeSet", stack, role)
    assert not may("DeployRole", "cloudformation:CreateChangeSet", stack)
    for action in ("CreateChangeSet", "ExecuteChangeSet", "DescribeStacks"):
        assert not may("DeployRole", f"cloudformation:{action}", other, role)
    for stacks in (stack, other):
        assert not may("DeployRole", "cloudformation:DeleteStack", stacks)
        assert not may("DeployRole", "cloudformation:UpdateStack", stacks, role)
    staging = FUNCTION.replace("production", "staging")
    assert may("DeployRole", "lambda:InvokeFunctionUrl", FUNCTION)
    assert not may("DeployRole", "lambda:InvokeFunctionUrl", staging)
    assert not may("CloudFormationRole", "lambda:UpdateFunctionCode", staging)
    assert not may("DeployRole", "lambda:UpdateFunctionCode", FUNCTION)
    preview = {"Environment": "preview", "Branch": "", "StackName": "lambda-stream-pr-*"}
    pull = f"arn:aws:cloudformation:us-east-1:{ACCOUNT}:stack/lambda-stream-pr-7/1"
    assert may("DeployRole", "cloudformation:DeleteStack", pull, {}, **preview)
    assert not may("DeployRole", "cloudformation:DeleteStack", stack, {}, **preview)


def actions(policies: list[dict[str, Any]]) -> set[str]:
    return {action for policy in policies for statement in statements(policy) for action in listed(statement["Action"])}


# The services that each option brings, beside those that every project uses.
BROUGHT = {
    "CloudFront": {"cloudfront"},
    "CodeDeploy": {"codedeploy"},
    "CloudWatch": {"cloudwatch"},
    "Image": {"ecr"},
    "Logs": {"logs"},
    "RestApi": {"apigateway", "execute-api"},
    "Sns": {"sns"},
}


@pytest.mark.parametrize("used", [(), *((name,) for name in BROUGHT), tuple(BROUGHT)], ids=" ".join)
def test_no_service_beyond_those_that_the_stack_uses(used: tuple[str, ...]) -> None:
    """What the pipeline may do at all, and that it is no wildcard."""
    template = Template(OIDC, **GIVEN, **IDS, **dict.fromkeys(used, "yes"))
    found = {
        action
        for role in ("DeployRole", "CloudFormationRole", "DriftRole")
        for action in actions(template.policies(role))
    }
    assert all(re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action) for action in found), "a wildcard"
    expected = {"cloudformation", "iam", "lambda", "s3"}.union(*(BROUGHT[name] for name in used))
    assert {action.partition(":")[0] for action in found} == expected


def test_what_may_be_done_to_everything_is_what_knows_no_resource() -> None:
    """Each statement on `*`, by its name."""
    template = Template(OIDC, **GIVEN, **IDS, **EVERYTHING)
    found = {
        statement["Sid"]
        for role in ("DeployRole", "CloudFormationRole", "DriftRole")
        for policy in template.policies(role)
        for statement in statements(policy)
        if "*" in listed(statement["Resource"])
    }
    assert found == {"ReadTemplate", "LogInToPush", "Await"}


def test_the_policies_fit_into_a_role() -> None:
    """IAM takes 10,240 characters of inline policies for a role, and 6,144 for a policy of its own."""
    resources = Template(OIDC, **GIVEN, **IDS, **EVERYTHING).resources()
    longest = f"arn:aws:lambda:ap-northeast-1:{ACCOUNT}:function:lambda-stream-production"
    assert len(longest) < 100
    for name in ("DeployRole", "CloudFormationRole", "DriftRole"):
        documents = [policy["PolicyDocument"] for policy in resources[name]["Properties"]["Policies"]]
        size = sum(len(json.dumps(document, separators=(",", ":"))) for document in documents)
        assert size < 9_200, (name, size)  # leaves room for longer names and regions
    for name in ("Boundary", "Reading"):
        document = json.dumps(resources[name]["Properties"]["PolicyDocument"], separators=(",", ":"))
        assert len(document) < 5_000, (name, len(document))


@pytest.mark.parametrize("model", ["global.amazon.nova-2-lite-v1:0", "amazon.nova-lite-v1:0"])
def test_the_boundary_lets_a_function_do_what_its_own_policy_allows(model: str) -> None:
    resources = Template(OIDC, **GIVEN, **IDS, Bedrock="yes").resources()
    boundary = resources["Boundary"]["Properties"]["PolicyDocument"]
    answers = {**defaults(), "example": "bedrock", "bedrock_model": model}
    function = load_yaml(render("template.yaml", answers))["Resources"]["StreamFunction"]["Properties"]
    [policy] = function["Policies"]
    [statement] = policy["Statement"]
    for resource in statement["Resource"]:
        arn = re.sub(r"\$\{(.+?)\}", lambda found: str(PSEUDO[found[1]]), resource["Sub"])
        assert allows([boundary], statement["Action"], arn.replace(":*:", ":eu-west-1:")), arn


# AWS's list of what a type's handlers call is for every property that there is. These calls, as patterns, are for
# properties that our template does not have, or look for resources that nobody named.
UNUSED = {
    "AWS::Lambda::Function": (
        *(
            "ec2:.*",
            "elasticfilesystem:.*",
            "kms:.*",
            "s3files:.*",
            "lambda:(Delete|Put)FunctionCodeSigningConfig",
            "lambda:ListFunctions",
        ),
        "lambda:GetCodeSigningConfig",
        *("lambda:AssociateRuntimeAlias", "lambda:GetLayerVersion", "lambda:PassCapacityProvider"),
        "lambda:PutFunctionScalingConfig",
    ),
    "AWS::Lambda::Version": ("lambda:PutFunctionScalingConfig",),
    "AWS::IAM::Role": ("iam:ListRoles", "iam:DeleteRolePermissionsBoundary"),
    "AWS::Logs::LogGroup": (
        *("firehose:.*", "s3:.*", "logs:.*KmsKey", "logs:CreateLogDelivery", "logs:PutBearerTokenAuthentication"),
        *("logs:(Delete|Put)(DataProtection|Index|Resource)Policy", "logs:PutLogGroupDeletionProtection"),
    ),
    "AWS::CloudWatch::Dashboard": ("cloudwatch:ListDashboards",),
    "AWS::SNS::Topic": ("iam:.*", "sns:ListTopics", "sns:PutDataProtectionPolicy"),
    "AWS::SNS::Subscription": ("iam:.*", "sns:ListSubscriptions"),
    "AWS::CodeDeploy::Application": ("codedeploy:ListApplications",),
    "AWS::CodeDeploy::DeploymentGroup": ("codedeploy:RegisterOnPremisesInstance",),
    "AWS::CloudFront::Distribution": (
        *("cloudfront:.*ConnectionGroup", "cloudfront:GetVpcOrigin", "cloudfront:ListDistributions"),
        "cloudfront:UpdateDistributionWithStagingConfig",
        "cloudfront:CreateDistributionWithTags",  # IAM has no such action: it asks for two others
    ),
    "AWS::CloudFront::OriginAccessControl": ("cloudfront:ListOriginAccessControls",),
    "AWS::CloudFront::CachePolicy": ("cloudfront:ListCachePolicies",),
    "AWS::CloudFront::OriginRequestPolicy": ("cloudfront:ListOriginRequestPolicies",),
    "AWS::CloudFront::ResponseHeadersPolicy": ("cloudfront:ListResponseHeadersPolicies",),
    "AWS::ApiGateway::RestApi": ("iam:.*", "s3:.*"),
}
TYPES = {
    *("AWS::Lambda::Function", "AWS::Lambda::Url", "AWS::Lambda::Permission", "AWS::Lambda::Alias"),
    *("AWS::Lambda::Version", "AWS::IAM::Role", "AWS::Logs::LogGroup", "AWS::CloudWatch::Alarm"),
    *("AWS::CloudWatch::Dashboard", "AWS::SNS::Topic", "AWS::SNS::Subscription", "AWS::SNS::TopicPolicy"),
    *("AWS::CodeDeploy::Application", "AWS::CodeDeploy::DeploymentGroup", "AWS::CloudFront::Distribution"),
    *("AWS::CloudFront::OriginAccessControl", "AWS::CloudFront::CachePolicy", "AWS::CloudFront::OriginRequestPolicy"),
    *("AWS::CloudFront::ResponseHeadersPolicy", "AWS::ApiGateway::RestApi", "AWS::ApiGateway::Deployment"),
    "AWS::ApiGateway::Stage",
}


def handlers(kind: str) -> dict[str, set[str]]:
    """What CloudFormation calls to create, read, update, delete and list a resource of a type, as AWS publishes it."""
    spec = importlib.util.find_spec("cfnlint")
    assert spec is not None
    assert spec.origin is not None
    schemas = Path(spec.origin).parent / "data" / "schemas"
    digests = json.loads((schemas / "providers" / "us-east-1.json").read_text(encoding="utf-8"))
    schema = json.loads((schemas / "resources" / f"{digests[kind]}.json").read_text(encoding="utf-8"))
    return {name: set(handler.get("permissions", [])) for name, handler in schema["handlers"].items()}


def needed(kind: str, *operations: str) -> list[str]:
    """What the role has to be allowed for these operations."""
    every = handlers(kind)
    for pattern in UNUSED.get(kind, ()):
        assert any(re.fullmatch(pattern, call) for calls in every.values() for call in calls), "needed no more"
    calls = set().union(*(called for name, called in every.items() if name in operations))
    return sorted(call for call in calls if not any(re.fullmatch(pattern, call) for pattern in UNUSED.get(kind, ())))


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_cloudformation_may_do_what_its_handlers_do(kind: str) -> None:
    """The permissions in AWS's own resource schemas (cfn-lint brings them), and for drift those of reading."""
    template = Template(OIDC, **GIVEN, **IDS, **EVERYTHING)
    may_make, may_read = (actions(template.policies(role)) for role in ("CloudFormationRole", "DriftRole"))
    assert [call for call in needed(kind, "create", "read", "update", "delete") if call not in may_make] == []
    assert [call for call in needed(kind, "read") if call not in may_read] == []


def test_cloudformation_may_do_nothing_that_no_handler_does() -> None:
    """So that the policy does not outgrow the stack: what is left over is named."""
    template = Template(OIDC, **GIVEN, **IDS, **EVERYTHING)
    called = set().union(*(called for kind in TYPES for called in handlers(kind).values()))
    assert actions(template.policies("CloudFormationRole")) - called == {
        "cloudformation:CreateChangeSet",  # SAM's transform
        "ecr:BatchGetImage",  # by Lambda, on behalf of whoever makes a function from an image
        "ecr:GetDownloadUrlForLayer",
        "ecr:GetRepositoryPolicy",
        "ecr:SetRepositoryPolicy",
    }


def test_each_type_of_resource_in_the_template_is_known_here(bake: Bake) -> None:
    """A type that comes to template.yaml has to come to `TYPES` and to oidc.yaml too."""
    text = (TEMPLATE / "template.yaml").read_text(encoding="utf-8")
    used = {kind for kind in re.findall(r"Type: (AWS::\S+)", text) if not kind.startswith("AWS::Serverless::")}
    assert used <= TYPES


def test_the_evaluator_refuses_what_it_does_not_understand() -> None:
    """A condition or a key that is passed over would let a test pass for the wrong reason."""
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    assert allows([{"Statement": statement}], "s3:GetObject", "x")
    assert not allows([{"Statement": [statement, {**statement, "Effect": "Deny"}]}], "s3:GetObject", "x")
    assert not allows([{"Statement": statement}], "s3:GetObjects", "x")
    for odd in ({"NotAction": "x"}, {"Condition": {"ForAllValues:StringEquals": {"a": "b"}}}):
        with pytest.raises(ValueError, match="not understood"):
            allows([{"Statement": {**statement, **odd}}], "s3:GetObject", "x")
