"""No role of a pipeline reaches another environment or project: all policies, over generated pairs of projects."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from tests.helpers.support import ROOT, TEMPLATE
from tests.pipeline.policies import PSEUDO, Reach, Template

OIDC = TEMPLATE / "pipeline" / "oidc.yaml"
ACCOUNT = PSEUDO["AWS::AccountId"]
PAIRS = 500
LONGEST_SLUG = 40
LONGEST_REGION = "us-isof-south-1"
# These reach other stacks' resources, since AWS has neither names in the ARNs nor tags to tell them apart.
# CloudFront refuses to delete an access control in use; nobody can change tags that start with `aws:`.
SHARED = {"AccessControl", "ReadAccessControl", "RestApiTags", "ReadRestApiTags"}
# This action lists log groups and has no other resource than all of them.
UNSCOPED = {"FindLogGroups"}


def load_pipeline() -> Any:
    spec = importlib.util.spec_from_file_location("generated_pipeline", TEMPLATE / "pipeline" / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


PIPELINE = load_pipeline()
SERVICES, ENVIRONMENTS = tuple(PIPELINE.SERVICES), PIPELINE.ENVIRONMENTS


def reach(project: str, environment: str) -> Reach:
    """Return what all roles of one environment may do, those included that the boundary limits."""
    given = PIPELINE.parameters(environment, project, "octo-org/stream", ("4242", "1001"), "main")
    template = Template(OIDC, **given, ProviderArn="arn:aws:iam::1:oidc-provider/x", **dict.fromkeys(SERVICES, "yes"))
    resources = template.resources()
    found = [resources["Boundary"]["Properties"]["PolicyDocument"]]
    for name, resource in resources.items():
        if resource["Type"] == "AWS::IAM::Role":
            found += template.policies(name)
    return Reach(found)


def generated(stack: str, logical_id: str, limit: int) -> str:
    """Return the name that CloudFormation generates, with as little of the stack's name as was ever seen.

    `mylongerapp-playground-ne-InstancesLifecycleHandle-1GRP3N0TVA1LD`: 25 characters of the stack's name, and 24 are
    assumed. https://github.com/convox/rack/issues/2297
    """
    name = f"{stack}-{logical_id}-1A2B3C4D5E6F"
    return name if len(name) <= limit else f"{stack[:24]}-{logical_id[:25]}-1A2B3C4D5E6F"


def resources(stack: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ARN and tags of everything that a stack of this name may hold."""
    regional = f"us-east-1:{ACCOUNT}"
    function = generated(stack, "StreamFunction", 64)
    application = generated(stack, "ServerlessDeploymentApplication", 100)
    tags = {"aws:ResourceTag/stack": stack, "aws:ResourceTag/aws:cloudformation:stack-name": stack}
    for arn in (
        f"arn:aws:cloudformation:{regional}:stack/{stack}/1a2b3c4d-0000-1111-2222-333344445555",
        f"arn:aws:lambda:{regional}:function:{function}",
        f"arn:aws:lambda:{regional}:function:{function}:live",
        f"arn:aws:iam::{ACCOUNT}:role/{generated(stack, 'StreamFunctionRole', 64)}",
        f"arn:aws:logs:{regional}:log-group:/aws/lambda/{stack}",
        f"arn:aws:logs:{regional}:log-group:/aws/lambda/{function}:log-stream:x",
        f"arn:aws:cloudwatch:{regional}:alarm:{generated(stack, 'StreamErrorsAlarm', 255)}",
        f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/{stack}-us-east-1",
        f"arn:aws:dynamodb:{regional}:table/{generated(stack, 'StreamStopTable', 255)}",
        f"arn:aws:sns:{regional}:{generated(stack, 'StreamAlarms', 256)}",
        f"arn:aws:codedeploy:{regional}:application:{application}",
        f"arn:aws:codedeploy:{regional}:deploymentgroup:{application}/{generated(stack, 'StreamGroup', 100)}",
        f"arn:aws:codedeploy:{regional}:deploymentconfig:{stack}-config",
        f"arn:aws:cloudfront::{ACCOUNT}:distribution/E1A2B3C4D5E6F7",
        "arn:aws:apigateway:us-east-1::/restapis/a1b2c3d4e5",
        "arn:aws:apigateway:us-east-1::/restapis/a1b2c3d4e5/deployments/1",
        "arn:aws:apigateway:us-east-1::/apis/a1b2c3d4e5/stages/$default",
        f"arn:aws:execute-api:{regional}:a1b2c3d4e5/live/GET/{stack}",
        f"arn:aws:sqs:{regional}:{generated(stack, 'Orders', 80)}",
        f"arn:aws:events:{regional}:rule/{generated(stack, 'OrderEventsFunctionHourly', 64)}",
        f"arn:aws:scheduler:{regional}:schedule/default/{generated(stack, 'OrderEventsFunctionMorning', 64)}",
    ):
        yield arn, tags
    mapping = f"arn:aws:lambda:{regional}:event-source-mapping:fa123456-14a1-4fd2-9fec-83de64ad683d"
    yield mapping, {**tags, "lambda:FunctionArn": f"arn:aws:lambda:{regional}:function:{function}"}


def pipeline_resources(project: str, environment: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ARNs of what `make pipeline` itself deploys for an environment."""
    stack = f"pipeline-{project}-{environment}"
    yield f"arn:aws:cloudformation:us-east-1:{ACCOUNT}:stack/{stack}/1", {}
    for logical_id in ("DeployRole", "CloudFormationRole", "DriftRole"):
        yield f"arn:aws:iam::{ACCOUNT}:role/pipeline/{generated(stack, logical_id, 64)}", {}
    yield f"arn:aws:iam::{ACCOUNT}:policy/pipeline/{generated(stack, 'Boundary', 128)}", {}
    bucket = generated(stack, "bucket", 63).lower()
    yield f"arn:aws:s3:::{bucket}", {}
    yield f"arn:aws:s3:::{bucket}/{PIPELINE.stack_name(environment, project)}/template", {}
    yield f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{generated(stack, 'images', 256).lower()}", {}


def stacks(project: str, environment: str) -> list[str]:
    """Return the names of an environment's stacks, as the workflow composes them."""
    name = PIPELINE.stack_name(environment, project)
    return [f"{name}-{number}" for number in (1, 7, 9_999_999)] if environment == "preview" else [name]


# What every condition but those on tags asks for: the most that a role could be used for.
GRANTED = {
    "iam:PermissionsBoundary": "arn:aws:::Boundary",
    "iam:PassedToService": "lambda.amazonaws.com",
    "cloudformation:RoleArn": "arn:aws:::CloudFormationRole",
}


def reaching(granted: Reach, resource: str, tags: dict[str, str]) -> set[str]:
    """Return the statements that reach a resource, except those that AWS offers no way to restrict."""
    return set(granted.of(resource, {**GRANTED, **tags})) - SHARED - UNSCOPED


def slugs(generator: random.Random) -> tuple[str, str]:
    """Return two slugs, in half of all cases such that one resembles a name of the other."""

    def word(length: int) -> str:
        text = "".join(generator.choices("abcdefghijklmnopqrstuvwxyz0123456789-", k=length))
        while "--" in text:
            text = text.replace("--", "-x")
        return ("s" + text)[:length].strip("-")

    one = word(generator.choice((1, 2, 13, 20, 21, 24, 39, LONGEST_SLUG, generator.randint(1, LONGEST_SLUG))))
    environment = generator.choice(ENVIRONMENTS)
    other = generator.choice(
        (
            word(generator.randint(1, LONGEST_SLUG)),
            f"{one}-{environment}",
            f"{one}-pr-7",
            f"{one}-pr-7-{environment}",
            f"{environment}-{one}",
            f"pipeline-{one}-{environment}",
            one[:24] + word(16),
            one[:-1] or "s",
            one + "s",
            PIPELINE.name_prefix(environment, one).lower() + word(8),
            PIPELINE.stack_name(environment, one).lower(),
        )
    )
    other = other[:LONGEST_SLUG].strip("-")
    return (one, other) if other != one else (one, "t" + one[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_roles_reach_only_their_own(seed: int) -> None:
    """500 pairs of projects, in each environment, against each other and against stacks that are deployed by hand."""
    generator = random.Random(seed)
    for _ in range(PAIRS // 5):
        pair = slugs(generator)
        owner, environment = pair[0], generator.choice(ENVIRONMENTS)
        granted = reach(owner, environment)
        for stack in stacks(owner, environment):
            for resource, tags in resources(stack):
                if ":execute-api:" not in resource and ":deploymentconfig:" not in resource:
                    assert reaching(granted, resource, tags), f"{owner} {environment} cannot reach its own {resource}"
        for project, target in product(pair, ENVIRONMENTS):
            foreign = list(pipeline_resources(project, target))
            for stack in (project, *(stacks(project, target) if (project, target) != (owner, environment) else ())):
                foreign += resources(stack)
            for resource, tags in foreign:
                found = reaching(granted, resource, tags)
                assert not found, f"{owner} {environment} reaches {resource} of {project} {target} through {found}"


def test_untagged_resource_is_reachable() -> None:
    """CloudFormation sets a tag after it creates a resource, and has to be able to go on until then."""
    granted = reach("lambda-stream", "preview")
    assert reaching(granted, "arn:aws:apigateway:us-east-1::/restapis/a1b2c3d4e5", {}) == {"RestApi", "ReadRestApi"}
    mapping = f"arn:aws:lambda:us-east-1:{ACCOUNT}:event-source-mapping:fa123456-14a1-4fd2-9fec-83de64ad683d"
    assert reaching(granted, mapping, {}) == {"EventSourceTags", "ReadEventSourceTags"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_longest_names_fit(environment: str) -> None:
    """Prefixes survive CloudFormation's cut at 24 characters, and composed names keep within AWS's limits."""
    project = "s" * LONGEST_SLUG
    prefix = PIPELINE.name_prefix(environment, project)
    assert len(prefix) <= 22
    for stack in stacks(project, environment):
        assert stack.startswith(prefix)
        assert len(stack) <= 128  # stack
        assert len(f"{stack}-{LONGEST_REGION}") <= 64  # CloudFront's access control
        assert len(generated(stack, "ServerlessDeploymentApplication", 100)) <= 100
        for logical_id in ("StreamFunction", "StreamFunctionRole", "StreamDeploymentRole", "OrderEventsFunctionHourly"):
            assert len(generated(stack, logical_id, 64)) <= 64
            assert generated(stack, logical_id, 64).startswith(prefix)


def test_stack_names_are_unique() -> None:
    generator = random.Random(7)
    projects = {slug for _ in range(2000) for slug in slugs(generator)}
    names = {PIPELINE.name_prefix(environment, project) for project in projects for environment in ENVIRONMENTS}
    assert len(names) == 3 * len(projects)


def test_document_shows_real_names() -> None:
    text = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    assert f"\n{PIPELINE.stack_name('production', 'lambda-stream')} " in text
    assert f"\n{PIPELINE.stack_name('preview', 'lambda-stream')}-7 " in text
