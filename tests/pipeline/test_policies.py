"""Who may assume the pipeline's roles, and what the roles may do: pipeline/oidc.yaml by IAM's rules."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.infrastructure import linted, transformed
from tests.helpers.rendering import load_yaml, render
from tests.helpers.several import add_events
from tests.helpers.support import ROOT, TEMPLATE, Bake, defaults
from tests.pipeline.policies import PSEUDO, Template, admits, allows, listed, statements
from tests.pipeline.test_isolation import OIDC, PIPELINE, SERVICES

ISSUER = "token.actions.githubusercontent.com"
PROVIDER = "arn:aws:iam::123456789012:oidc-provider/" + ISSUER
STACK = PIPELINE.stack_name("production", "lambda-stream")
STAGING, PREVIEW = (PIPELINE.stack_name(name, "lambda-stream") for name in ("staging", "preview"))
GIVEN = {
    "Environment": "production",
    "Repository": "octo-org/stream.py",
    "Branch": "main",
    "StackName": STACK,
    "NamePrefix": PIPELINE.name_prefix("production", "lambda-stream"),
    "ProviderArn": PROVIDER,
}
IDS = {"OwnerId": "4242", "RepositoryId": "1001"}
EVERYTHING = dict.fromkeys(SERVICES, "yes")

# Claims of a token that must be trusted, with both forms of GitHub's subject.
NAMES = {
    "aud": "sts.amazonaws.com",
    "sub": "repo:octo-org/stream.py:environment:production",
    "repository_id": "1001",
    "ref": "refs/heads/main",
}
NUMBERS = {**NAMES, "sub": "repo:octo-org@4242/stream.py@1001:environment:production"}

Claims = Mapping[str, str | None]
# Differences for which a token must be refused.
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
def test_right_token_is_trusted(claims: Claims) -> None:
    """From the right environment and branch, with both forms of the subject."""
    assert admitted("DeployRole", claims, **IDS)


@pytest.mark.parametrize("difference", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("claims", [NAMES, NUMBERS], ids=["names", "numbers"])
def test_other_tokens_are_refused(claims: Claims, difference: Claims) -> None:
    """A single different or missing claim is enough."""
    assert not admitted("DeployRole", {**claims, **difference}, **IDS)


def test_without_ids_names_are_trusted() -> None:
    """For a repository whose ids `make pipeline` could not look up."""
    assert admitted("DeployRole", {**NAMES, "repository_id": None})
    assert not admitted("DeployRole", NUMBERS)
    assert not admitted("DeployRole", {**NAMES, "sub": "repo:octo-org@/stream.py@:environment:production"})
    assert not admitted("DeployRole", {**NAMES, "ref": "refs/heads/feature"})


def test_preview_comes_from_any_branch() -> None:
    """The ref of a pull request is that of its merge. The subject still names repository and environment."""
    parameters = {**IDS, "Environment": "preview", "Branch": "", "StackName": f"{PREVIEW}-*"}
    claims: Claims = {**NAMES, "sub": "repo:octo-org/stream.py:environment:preview", "ref": "refs/pull/7/merge"}
    assert admitted("DeployRole", claims, **parameters)
    assert not admitted("DeployRole", NAMES, **parameters)
    assert not admitted("DeployRole", {**claims, "repository_id": "666"}, **parameters)
    assert "DriftRole" not in Template(OIDC, **{**GIVEN, **parameters}).resources()


def test_drift_role_trusts_the_branch() -> None:
    """Scheduled workflows run on the default branch, and the job has no environment."""
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


def test_roles_trust_no_other_principals() -> None:
    """Only GitHub and CloudFormation, and GitHub only with the audience and an exact subject."""
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
FUNCTION = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:{STACK}-StreamFunction-1A2B3C4D5E6F"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/{STACK}-StreamFunctionRole-1A2B3C4D5E6F"
BOUNDARY = "arn:aws:::Boundary"


def may(role: str, action: str, resource: str, context: Mapping[str, str] | None = None, **parameters: str) -> bool:
    return allows(Template(OIDC, **{**GIVEN, **IDS, **parameters}).policies(role), action, resource, context)


def test_pipeline_cannot_extend_itself() -> None:
    """It creates no role without the boundary, changes none of its own, and passes none to other services."""
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


def test_environments_are_separate() -> None:
    """Other stacks and functions are out of reach, and changes need the role of CloudFormation."""
    stack, other = (f"arn:aws:cloudformation:us-east-1:{ACCOUNT}:stack/{name}/1" for name in (STACK, STAGING))
    role = {"cloudformation:RoleArn": "arn:aws:::CloudFormationRole"}
    assert may("DeployRole", "cloudformation:CreateChangeSet", stack, role)
    assert not may("DeployRole", "cloudformation:CreateChangeSet", stack)
    imports = {**role, "cloudformation:ImportResourceTypes": "AWS::Lambda::Function"}
    assert not may("DeployRole", "cloudformation:CreateChangeSet", stack, imports)
    for action in ("CreateChangeSet", "ExecuteChangeSet", "DescribeStacks", "GetTemplateSummary"):
        assert not may("DeployRole", f"cloudformation:{action}", other, role)
    for stacks in (stack, other):
        assert not may("DeployRole", "cloudformation:DeleteStack", stacks)
        assert not may("DeployRole", "cloudformation:UpdateStack", stacks, role)
    staging = FUNCTION.replace(STACK, STAGING)
    assert may("DeployRole", "lambda:InvokeFunctionUrl", FUNCTION)
    assert not may("DeployRole", "lambda:InvokeFunctionUrl", staging)
    assert not may("CloudFormationRole", "lambda:UpdateFunctionCode", staging)
    assert not may("DeployRole", "lambda:UpdateFunctionCode", FUNCTION)
    preview = {"Environment": "preview", "Branch": "", "StackName": f"{PREVIEW}-*"}
    pull = f"arn:aws:cloudformation:us-east-1:{ACCOUNT}:stack/{PREVIEW}-7/1"
    assert may("DeployRole", "cloudformation:DeleteStack", pull, {}, **preview)
    assert not may("DeployRole", "cloudformation:DeleteStack", stack, {}, **preview)


def actions(policies: list[dict[str, Any]]) -> set[str]:
    return {action for policy in policies for statement in statements(policy) for action in listed(statement["Action"])}


# IAM services of each parameter, in addition to those that every project uses.
BROUGHT = {
    "CloudFront": {"cloudfront"},
    "CodeDeploy": {"codedeploy"},
    "CloudWatch": {"cloudwatch"},
    "DynamoDb": {"dynamodb"},
    "Events": {"events"},
    "Image": {"ecr"},
    "Logs": {"logs"},
    "RestApi": {"apigateway"},
    "Scheduler": {"scheduler"},
    "Secrets": {"secretsmanager"},
    "Sns": {"sns"},
    "Sqs": {"sqs"},
    "Waf": {"apigateway", "wafv2"},
}


@pytest.mark.parametrize("used", [(), *((name,) for name in BROUGHT), tuple(BROUGHT)], ids=" ".join)
def test_only_used_services_are_allowed(used: tuple[str, ...]) -> None:
    """Actions are spelled out, and belong to services that the stack uses."""
    template = Template(OIDC, **GIVEN, **IDS, **dict.fromkeys(used, "yes"))
    found = {
        action
        for role in ("DeployRole", "CloudFormationRole", "DriftRole")
        for action in actions(template.policies(role))
    }
    assert all(re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action) for action in found), "an action has a wildcard"
    expected = {"cloudformation", "iam", "lambda", "s3"}.union(*(BROUGHT[name] for name in used))
    assert {action.partition(":")[0] for action in found} == expected


def test_wildcards_are_unavoidable() -> None:
    """These actions support no resources."""
    template = Template(OIDC, **GIVEN, **IDS, **EVERYTHING)
    found = {
        statement["Sid"]
        for role in ("DeployRole", "CloudFormationRole", "DriftRole")
        for policy in template.policies(role)
        for statement in statements(policy)
        if "*" in listed(statement["Resource"])
    }
    assert found == {"CreateEventSource", "LogInToRegistry", "MakeSecret", "WaitForDetection"}


def test_event_sources_belong_to_own_functions() -> None:
    """Creating one has no resource, so the function that it invokes decides."""
    mapping = f"arn:aws:lambda:us-east-1:{ACCOUNT}:event-source-mapping:fa123456-14a1-4fd2-9fec-83de64ad683d"
    foreign = FUNCTION.replace(STACK, STAGING)
    for role, action, resource in (
        ("CloudFormationRole", "CreateEventSourceMapping", "*"),
        ("CloudFormationRole", "UpdateEventSourceMapping", mapping),
        ("CloudFormationRole", "DeleteEventSourceMapping", mapping),
        ("DriftRole", "GetEventSourceMapping", mapping),
    ):
        for function, expected in ((FUNCTION, True), (f"{FUNCTION}:live", True), (foreign, False)):
            context = {"lambda:FunctionArn": function}
            assert may(role, f"lambda:{action}", resource, context, EventSource="yes") is expected
        assert not may(role, f"lambda:{action}", resource, {}, EventSource="yes")
        assert not may(role, f"lambda:{action}", resource, {"lambda:FunctionArn": FUNCTION})


def test_boundary_allows_what_events_need() -> None:
    """AWS's policy for a function behind a queue, and SAM's for the role of a schedule; for resources of the stack."""
    from samtranslator.model.iam import IAMRolePolicies

    resources = Template(OIDC, **GIVEN, **IDS, **EVERYTHING).resources()
    boundary = resources["Boundary"]["Properties"]["PolicyDocument"]
    queue = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{STACK}-Orders-1A2B3C4D5E6F"
    # https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AWSLambdaSQSQueueExecutionRole.html
    for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
        assert allows([boundary], f"sqs:{action}", queue)
        assert not allows([boundary], f"sqs:{action}", queue.replace(STACK, STAGING))
    [statement] = IAMRolePolicies.lambda_invoke_function_role_policy(FUNCTION, "x")["PolicyDocument"]["Statement"]
    assert allows([boundary], statement["Action"], statement["Resource"])
    [trust] = IAMRolePolicies.scheduler_assume_role_policy()["Statement"]
    passed = {"iam:PassedToService": trust["Principal"]["Service"][0]}
    assert may("CloudFormationRole", "iam:PassRole", ROLE, passed, Scheduler="yes")
    assert not may("CloudFormationRole", "iam:PassRole", ROLE, passed)


def test_events_are_recognized(bake: Bake, tmp_path: Path) -> None:
    """`make pipeline` allows what a plain function's events need, and nothing for events that it does not have."""
    names = {"Events", "EventSource", "Scheduler", "Sqs"}
    before = (bake() / "template.yaml").read_text(encoding="utf-8")
    assert {name for name in names if PIPELINE.services(before)[name] == "yes"} == set()
    project = add_events(shutil.copytree(bake(), tmp_path / "project"))
    after = (project / "template.yaml").read_text(encoding="utf-8")
    assert {name for name in names if PIPELINE.services(after)[name] == "yes"} == names
    assert linted(after, "us-east-1") == []
    made = {of["Type"] for of in transformed(project)["Resources"].values()}
    assert made <= TYPES
    assert {"AWS::Lambda::EventSourceMapping", "AWS::Events::Rule", "AWS::Scheduler::Schedule"} <= made
    for kind, service in (("Schedule", "Events"), ("ScheduleV2", "Scheduler"), ("SQS", "Sqs"), ("Kinesis", "")):
        found = PIPELINE.services(f"        One: {{Type: {kind}, Properties: {{}}}}\n")
        brought = {"EventSource"} if kind in ("SQS", "Kinesis") else set()
        assert {name for name, used in found.items() if used == "yes"} == brought | ({service} - {""})


def test_policies_fit_into_roles() -> None:
    """IAM allows 10,240 characters of inline policies in a role, and 6,144 in a managed policy."""
    resources = Template(OIDC, **GIVEN, **IDS, **EVERYTHING).resources()
    longest = f"arn:aws:lambda:ap-northeast-1:{ACCOUNT}:function:{STACK}"
    assert len(longest) < 105
    for name in ("DeployRole", "CloudFormationRole", "DriftRole"):
        documents = [policy["PolicyDocument"] for policy in resources[name]["Properties"]["Policies"]]
        size = sum(len(json.dumps(document, separators=(",", ":"))) for document in documents)
        assert size < 9_200, (name, size)  # with room for longer names and regions
    for name in ("Boundary", "Reading"):
        document = json.dumps(resources[name]["Properties"]["PolicyDocument"], separators=(",", ":"))
        assert len(document) < 5_600, (name, len(document))


@pytest.mark.parametrize("model", ["global.amazon.nova-2-lite-v1:0", "amazon.nova-lite-v1:0"])
def test_boundary_allows_bedrock(model: str) -> None:
    resources = Template(OIDC, **GIVEN, **IDS, Bedrock="yes").resources()
    boundary = resources["Boundary"]["Properties"]["PolicyDocument"]
    answers = {**defaults(), "example": "bedrock", "bedrock_model": model}
    function = load_yaml(render("template.yaml", answers))["Resources"]["StreamFunction"]["Properties"]
    [statement] = function["Policies"][0]["Statement"]
    for resource in statement["Resource"]:
        arn = re.sub(r"\$\{(.+?)\}", lambda found: str(PSEUDO[found[1]]), resource["Sub"])
        assert allows([boundary], statement["Action"], arn.replace(":*:", ":eu-west-1:")), arn


def test_boundary_allows_stop_table() -> None:
    """The function reads and writes records in a table of its own stack, and of no other."""
    template = load_yaml(render("template.yaml", {**defaults(), "example": "agent"}))
    policy = template["Resources"]["StreamFunction"]["Properties"]["Policies"][1]["If"][1]
    boundary = Template(OIDC, **GIVEN, **IDS, DynamoDb="yes").resources()["Boundary"]["Properties"]["PolicyDocument"]
    [statement] = policy["Statement"]
    assert statement["Resource"] == {"GetAtt": "StreamStopTable.Arn"}
    for stack, expected in ((STACK, True), (STAGING, False)):
        table = f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/{stack}-StreamStopTable-1A2B3C4D5E6F"
        for action in statement["Action"]:
            assert allows([boundary], action, table) == expected
    assert PIPELINE.services(render("template.yaml", {**defaults(), "example": "agent"}))["DynamoDb"] == "yes"


# AWS lists the calls of a type's handlers for all of its properties. The calls below, as patterns, are for properties
# that our template does not use, or for listing resources.
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
    "AWS::DynamoDB::Table": (
        *("iam:.*", "kinesis:.*", "kms:.*", "logs:.*", "s3:.*", "dynamodb:.*TableReplica", "dynamodb:ListTables"),
        *("dynamodb:.*(Item|Import|ImportTable)", "dynamodb:(Query|Scan)", "dynamodb:(Delete|Put)ResourcePolicy"),
        *("dynamodb:(Disable|Enable|Update)KinesisStreamingDestination", "dynamodb:UpdateCont.*"),
    ),
    "AWS::SNS::Topic": ("iam:.*", "sns:ListTopics", "sns:PutDataProtectionPolicy"),
    "AWS::SNS::Subscription": ("iam:.*", "sns:ListSubscriptions"),
    "AWS::CodeDeploy::Application": ("codedeploy:ListApplications",),
    "AWS::CodeDeploy::DeploymentGroup": ("codedeploy:RegisterOnPremisesInstance",),
    "AWS::CloudFront::Distribution": (
        *("cloudfront:.*ConnectionGroup", "cloudfront:GetVpcOrigin", "cloudfront:ListDistributions"),
        "cloudfront:UpdateDistributionWithStagingConfig",
        "cloudfront:CreateDistributionWithTags",  # not an action of IAM, which checks two others instead
    ),
    "AWS::CloudFront::OriginAccessControl": (
        "cloudfront:ListOriginAccessControls",
        "cloudfront:UpdateOriginAccessControl",  # would reach those of other stacks, and ours never change
    ),
    "AWS::ApiGateway::RestApi": ("iam:.*", "s3:.*"),
    "AWS::ApiGatewayV2::Api": ("s3:.*",),
    # Not actions of IAM, which checks POST and DELETE of /tags instead.
    "AWS::ApiGatewayV2::Stage": ("apigateway:(Tag|Untag)Resource",),
    "AWS::CloudFront::Function": ("cloudfront:ListFunctions",),
    "AWS::WAFv2::WebACL": ("wafv2:listWebACLs", "payments:.*"),
    "AWS::WAFv2::WebACLAssociation": (
        *("amplify:.*", "apprunner:.*", "appsync:.*", "bedrock-agentcore:.*", "cognito-idp:.*", "ec2:.*"),
        *("elasticloadbalancing:.*", "wafv2:(Get|Put)PermissionPolicy"),
    ),
    "AWS::SecretsManager::Secret": ("secretsmanager:ListSecrets", "secretsmanager:.*Regions.*"),
    "AWS::SQS::Queue": ("sqs:ListQueues",),
    "AWS::Events::Rule": ("iam:PassRole", "events:ListRules"),
    "AWS::Scheduler::Schedule": ("scheduler:ListSchedules",),
    "AWS::Lambda::EventSourceMapping": ("kms:.*", "lambda:ListEventSourceMappings"),
}
TYPES = {
    *("AWS::Lambda::Function", "AWS::Lambda::Url", "AWS::Lambda::Permission", "AWS::Lambda::Alias"),
    *("AWS::Lambda::Version", "AWS::IAM::Role", "AWS::Logs::LogGroup", "AWS::CloudWatch::Alarm"),
    *("AWS::CloudWatch::Dashboard", "AWS::SNS::Topic", "AWS::SNS::Subscription", "AWS::SNS::TopicPolicy"),
    *("AWS::CodeDeploy::Application", "AWS::CodeDeploy::DeploymentGroup", "AWS::CloudFront::Distribution"),
    *("AWS::CloudFront::OriginAccessControl", "AWS::ApiGateway::RestApi", "AWS::ApiGateway::Deployment"),
    *("AWS::ApiGateway::DomainName", "AWS::ApiGateway::BasePathMapping"),
    *("AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::Stage"),  # of a user's plain functions
    *("AWS::WAFv2::WebACL", "AWS::WAFv2::WebACLAssociation"),
    *("AWS::CloudFront::Function", "AWS::SecretsManager::Secret"),
    *("AWS::ApiGateway::Stage", "AWS::SQS::Queue", "AWS::SQS::QueuePolicy", "AWS::Lambda::EventSourceMapping"),
    *("AWS::Events::Rule", "AWS::Scheduler::Schedule", "AWS::DynamoDB::Table"),
}


# What AWS lists for reading, too, and reading cannot need.
WRITES = {
    "AWS::WAFv2::WebACLAssociation": ("apigateway:SetWebACL", "wafv2:AssociateWebACL", "wafv2:DisassociateWebACL")
}


def handlers(kind: str) -> dict[str, set[str]]:
    """Return what CloudFormation calls for each operation on a type of resource, as AWS publishes it."""
    spec = importlib.util.find_spec("cfnlint")
    assert spec is not None
    assert spec.origin is not None
    schemas = Path(spec.origin).parent / "data" / "schemas"
    digests = json.loads((schemas / "providers" / "us-east-1.json").read_text(encoding="utf-8"))
    schema = json.loads((schemas / "resources" / f"{digests[kind]}.json").read_text(encoding="utf-8"))
    return {name: set(handler.get("permissions", [])) for name, handler in schema["handlers"].items()}


def needed(kind: str, *operations: str) -> list[str]:
    """Return the actions that the role needs for these operations."""
    every = handlers(kind)
    for pattern in UNUSED.get(kind, ()):
        assert any(re.fullmatch(pattern, call) for calls in every.values() for call in calls), f"unneeded: {pattern}"
    calls = set().union(*(called for name, called in every.items() if name in operations))
    return sorted(call for call in calls if not any(re.fullmatch(pattern, call) for pattern in UNUSED.get(kind, ())))


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_handlers_may_do_their_calls(kind: str) -> None:
    """By the permissions in AWS's resource schemas, which cfn-lint brings. Drift detection needs those of reading."""
    template = Template(OIDC, **GIVEN, **IDS, **EVERYTHING)
    may_make, may_read = (actions(template.policies(role)) for role in ("CloudFormationRole", "DriftRole"))
    assert [call for call in needed(kind, "create", "read", "update", "delete") if call not in may_make] == []
    assert [call for call in needed(kind, "read") if call not in {*may_read, *WRITES.get(kind, ())}] == []


def test_no_action_without_a_handler() -> None:
    """The policy does not outgrow the stack. Exceptions are listed with their reason."""
    template = Template(OIDC, **GIVEN, **IDS, **EVERYTHING)
    called = set().union(*(called for kind in TYPES for called in handlers(kind).values()))
    assert actions(template.policies("CloudFormationRole")) - called == {
        "cloudformation:CreateChangeSet",  # SAM's transform
        "ecr:BatchGetImage",  # by Lambda, on behalf of the creator of a function from an image
        "ecr:GetDownloadUrlForLayer",
        "ecr:GetRepositoryPolicy",
        "ecr:SetRepositoryPolicy",
    }


def test_all_resource_types_are_covered() -> None:
    """A new type in template.yaml has to be added to `TYPES` and to oidc.yaml."""
    files = (TEMPLATE / "template.yaml", *(ROOT / "templates" / "resources").iterdir())
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    used = {kind for kind in re.findall(r"Type: (AWS::\S+)", text) if not kind.startswith("AWS::Serverless::")}
    assert used <= TYPES


def test_distribution_has_its_tag() -> None:
    """CloudFormation puts no tags of its own on distributions, so template.yaml sets the one that policies ask for."""
    template = load_yaml(render("template.yaml", {**defaults(), "front_door": "cloudfront"}))
    tags = template["Resources"]["StreamDistribution"]["Properties"]["Tags"]
    assert tags == [{"Key": "stack", "Value": {"Ref": "AWS::StackName"}}]
    arn, own = f"arn:aws:cloudfront::{ACCOUNT}:distribution/E1", {"aws:ResourceTag/stack": STACK}
    other = {"aws:ResourceTag/stack": STAGING}
    for action in ("UpdateDistribution", "DeleteDistribution", "TagResource", "UntagResource", "GetDistributionConfig"):
        assert may("CloudFormationRole", f"cloudfront:{action}", arn, own, CloudFront="yes")
        assert not may("CloudFormationRole", f"cloudfront:{action}", arn, other, CloudFront="yes")


def test_rest_api_admits_the_deploy_role(bake: Bake) -> None:
    """The API's own policy names the role, which may not call any other API of the account."""
    template = transformed(bake(front_door="rest-api"))
    [statement] = template["Resources"]["StreamApi"]["Properties"]["Body"]["x-amazon-apigateway-policy"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "execute-api:Invoke",
        "Resource": "execute-api:/*",
        # The transform has put the value of the parameter DeployRole in, which is empty here.
        "Condition": {"StringEquals": {"aws:PrincipalArn": {"Fn::If": ["HasDeployRole", "", "none"]}}},
    }
    assert template["Conditions"]["HasDeployRole"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "DeployRole"}, ""]}]}
    arn = f"arn:aws:execute-api:us-east-1:{ACCOUNT}:a1b2c3d4e5/live/GET/"
    for role in ("DeployRole", "CloudFormationRole", "DriftRole"):
        assert not may(role, "execute-api:Invoke", arn, {}, **EVERYTHING)


@pytest.mark.parametrize("answers", [{"url_auth": "NONE"}, {"deploy_pipeline": "none"}], ids=["public", "by hand"])
def test_other_rest_apis_have_no_policy(answers: dict[str, str], bake: Bake) -> None:
    """A policy would close a public API to its callers."""
    template = transformed(bake(front_door="rest-api", **answers))
    assert "x-amazon-apigateway-policy" not in template["Resources"]["StreamApi"]["Properties"]["Body"]
    assert "DeployRole" not in template.get("Parameters", {})


def test_predefined_config_is_readable() -> None:
    """SAM uses CodeDeploy's predefined configurations; those of other projects are out of reach."""
    config = f"arn:aws:codedeploy:us-east-1:{ACCOUNT}:deploymentconfig:"
    for name, expected in (("CodeDeployDefault.LambdaCanary10Percent5Minutes", True), ("other", False)):
        found = may("CloudFormationRole", "codedeploy:GetDeploymentConfig", config + name, CodeDeploy="yes")
        assert found is expected


def test_unknown_elements_raise() -> None:
    """An ignored condition or key would let tests pass for the wrong reason."""
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    assert allows([{"Statement": statement}], "s3:GetObject", "x")
    assert not allows([{"Statement": [statement, {**statement, "Effect": "Deny"}]}], "s3:GetObject", "x")
    assert not allows([{"Statement": statement}], "s3:GetObjects", "x")
    for odd in ({"NotAction": "x"}, {"Condition": {"ForAllValues:StringEquals": {"a": "b"}}}):
        with pytest.raises(ValueError, match="unsupported"):
            allows([{"Statement": {**statement, **odd}}], "s3:GetObject", "x")
