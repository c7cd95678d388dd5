"""A project's own rules on its pipeline: each planted mistake is found, and explained with a remedy."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.several import add_events
from tests.helpers.support import Answers, Bake

pytestmark = pytest.mark.slow

DEPLOY, ENVIRONMENT = ".github/workflows/deploy.yml", ".github/workflows/environment.yml"
CI, ROLES = ".github/workflows/ci.yml", "pipeline/oidc.yaml"
TEMPLATE, PYPROJECT, SAMCONFIG = "template.yaml", "pyproject.toml", "samconfig.toml"
CANARY: Answers = {"deployment": "canary"}
STREAM = "  Stream:\n    Type: AWS::Kinesis::Stream\n"
BUCKET = "  Bucket:\n    Type: AWS::S3::Bucket\n"
POLICY = """      Policies:
        - Version: "2012-10-17"
          Statement:
            - Effect: Allow
              Action: s3:GetObject
              Resource: "*"
"""
BOUNDARY = "PermissionsBoundary: !If [HasPermissionsBoundary, !Ref PermissionsBoundary, !Ref AWS::NoValue]"
EVENT = (TEMPLATE, "      Tracing: Active\n")


def event(kind: str, *properties: str) -> str:
    """Return what takes the place of EVENT in a template to add an event of this type."""
    return f"{EVENT[1]}      Events:\n        Any: {{Type: {kind}, Properties: {{{', '.join(properties)}}}}}\n"


# Name: file, text, its replacement, part of the message, and answers that differ from the defaults.
FAULTS: dict[str, tuple[str, str, str, str, Answers]] = {
    "unknown need": (DEPLOY, "needs: [ci, staging]", "needs: [ci, stage]", "correct the names of the jobs", {}),
    "renamed job": (DEPLOY, "  staging:\n", "  stage:\n", "correct the names of the jobs", {}),
    "need not listed": (DEPLOY, "needs: [preview]", "needs: [ci]", "add preview to its needs", {}),
    "unknown job output": (DEPLOY, "ci.outputs.checksum", "ci.outputs.sum", "ci has no output sum", {}),
    "unknown step": (
        ENVIRONMENT,
        "steps.change.outputs.set",
        "steps.changes.outputs.set",
        "give that step",
        {},
    ),
    "output not written": (ENVIRONMENT, 'echo "url=', 'echo "link=', "writes no output url", {}),
    "unknown output job": (ENVIRONMENT, "jobs.deploy.outputs.url", "jobs.ship.outputs.url", "not a job", {}),
    "unknown output": (ENVIRONMENT, "jobs.deploy.outputs.url", "jobs.deploy.outputs.link", "has no output link", {}),
    "unknown input": (ENVIRONMENT, "inputs.checksum", "inputs.sum", "declare it below workflow_call", {}),
    "misspelt input": (DEPLOY, "      checksum:", "      check-sum:", "has no input", {}),
    "missing input": (DEPLOY, "      environment: staging\n", "", "the inputs {'environment'}", {}),
    "missing permission": (DEPLOY, "      id-token: write", "      issues: write", "must have `id-token: write`", {}),
    "unknown workflow": (DEPLOY, "workflows/ci.yml", "workflows/check.yml", "does not exist", {}),
    "unknown variable": (ENVIRONMENT, "vars.STACK_NAME", "vars.STACK", "sets no variable STACK", {}),
    "unknown command": (CI, "run: make check", "run: make checks", "no target checks", {}),
    "output's name": (TEMPLATE, "  StreamUrl:\n    Description", "  StreamURL:\n    Description", "ends with Url", {}),
    "output's value": (TEMPLATE, "GetAtt StreamUrl.FunctionUrl", "GetAtt StreamFunction.Arn", "as its value", {}),
    "no URL": (TEMPLATE, "  StreamFunctionName:\n    Desc", "  DocumentationUrl:\n    Desc", "rename it", {}),
    "API without output": (TEMPLATE, "  StreamApiUrl:", "  StreamApi:", "ends with Url", {"front_door": "rest-api"}),
    "distribution's output": (
        *(TEMPLATE, "https://${StreamDistribution.DomainName}/", "${StreamDistribution}"),
        *("with the URL as its value", {"front_door": "cloudfront"}),
    ),
    "no smoke event": (PYPROJECT, "smoke-event =", "smoke_event =", "set smoke-event", {}),
    "smoke event's file": (PYPROJECT, "events/get.json", "events/got.json", "which does not exist", {}),
    "smoke event's quotes": (PYPROJECT, '"events/get.json"', "'events/get.json'", "with double quotes", {}),
    "smoke event's shape": (PYPROJECT, "events/get.json", "pyproject.json", "requestContext.http", {}),
    "no stack name": (SAMCONFIG, "stack_name =", "stackname =", "set stack_name", {}),
    "no region": (SAMCONFIG, 'region = "us-east-1"', 'region = "Virginia"', "set region", {}),
    "settings of the pipeline": (SAMCONFIG, "[default.deploy", "[pipeline.deploy", "rename [pipeline]", {}),
    "inverted boundary": (
        TEMPLATE,
        '!Not [!Equals [!Ref PermissionsBoundary, ""]]',
        '!Equals [!Ref PermissionsBoundary, ""]',
        "let the condition be",
        {},
    ),
    "role without boundary": (
        TEMPLATE,
        "/AWSCodeDeployRoleForLambdaLimited\n      PermissionsBoundary:",
        "/AWSCodeDeployRoleForLambdaLimited\n      Description:",
        *("StreamDeploymentRole: set PermissionsBoundary", CANARY),
    ),
    "boundary's parameter": (TEMPLATE, "  PermissionsBoundary:\n    Type", "  Boundary:\n    Type", "declare the", {}),
    "inverted stage": (
        TEMPLATE,
        "[IsProduction, Canary10Percent5Minutes, AllAtOnce]",
        "[IsProduction, AllAtOnce, Canary10Percent5Minutes]",
        "be gradual",
        CANARY,
    ),
    "misspelt stage": (TEMPLATE, "!Ref Stage, production", "!Ref Stage, prod", "be gradual", CANARY),
    "new service": (TEMPLATE, "\nResources:\n", f"\nResources:\n{STREAM}", "may not use kinesis", {}),
    "service that is only read": (TEMPLATE, "\nResources:\n", f"\nResources:\n{BUCKET}", "may not use s3", {}),
    "new kind of event": (*EVENT, event("Kinesis"), "may not read from kinesis", {}),
    "new service of an event": (*EVENT, event("IoTRule"), "may not call iot:CreateTopicRule", {}),
    "new action of an event": (*EVENT, event("CloudWatchLogs"), "may not call logs:PutSubscriptionFilter", {}),
    "role for another service": (
        ROLES,
        *("- UsesLogs\n                - Sid: LogGroups", "- UsesSqs\n                - Sid: LogGroups"),
        *("may not use logs", {}),
    ),
    "schedule without a name": (*EVENT, event("ScheduleV2", BOUNDARY), "set OmitName: true", {}),
    "schedule without boundary": (*EVENT, event("ScheduleV2", "OmitName: true"), "event Any: set PermissionsB", {}),
    "new action": (TEMPLATE, "      Tracing: Active\n", f"      Tracing: Active\n{POLICY}", "add s3:GetObject", {}),
    "loose comparison": (
        ROLES,
        "              StringEquals:\n                token",
        "              StringLike:\n                token",
        "with StringEquals",
        {},
    ),
    "wildcard subject": (ROLES, "repo:${Repository}:environment:${Environment}", "repo:x/*", "without wildcards", {}),
}


def messages(project: Path) -> Iterator[str]:
    """Run a project's rules in this process, and yield the messages of those that fail."""
    spec = importlib.util.spec_from_file_location("project_rules", project / "tests" / "test_pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, test in vars(module).items():
        if name.startswith("test_"):
            marks = [mark.args for mark in getattr(test, "pytestmark", [])]
            for values in itertools.product(*(values for _, values in marks)):
                try:
                    test(**dict(zip((key for key, _ in marks), values, strict=True)))
                except AssertionError as error:
                    yield str(error)


@pytest.mark.parametrize("fault", FAULTS)
def test_mistake_is_explained(fault: str, bake: Bake, tmp_path: Path) -> None:
    file, text, replacement, message, answers = FAULTS[fault]
    project = shutil.copytree(bake(**answers), tmp_path / "project")
    (project / "pyproject.json").write_text("{}")
    changed = project / file
    before = changed.read_text(encoding="utf-8")
    assert text in before
    changed.write_text(before.replace(text, replacement), encoding="utf-8")
    found = list(messages(project))
    assert any(message in line for line in found), found


@pytest.mark.parametrize("answers", [{}, CANARY, {"example": "bedrock", "front_door": "rest-api"}], ids=str)
def test_project_follows_its_rules(answers: Answers, bake: Bake) -> None:
    assert list(messages(bake(**answers))) == []


ALLOWED = {
    "HttpApi": (*EVENT, event("HttpApi")),
    "AWS::Serverless::HttpApi": (TEMPLATE, "\nResources:\n", "\nResources:\n  Any: {Type: AWS::Serverless::HttpApi}\n"),
    "AWS::Serverless::SimpleTable": (
        *(TEMPLATE, "\nResources:\n", "\nResources:\n  Any: {Type: AWS::Serverless::SimpleTable}\n"),
    ),
}


@pytest.mark.parametrize("kind", ALLOWED)
def test_pipeline_allows_what_the_rules_accept(kind: str, bake: Bake, tmp_path: Path) -> None:
    """`make pipeline` finds the service in the template, so that the roles may use it."""
    file, text, replacement = ALLOWED[kind]
    project = shutil.copytree(bake(), tmp_path / "project")
    changed = project / file
    changed.write_text(changed.read_text(encoding="utf-8").replace(text, replacement), encoding="utf-8")
    assert list(messages(project)) == []


def test_plain_function_follows_the_rules(bake: Bake, tmp_path: Path) -> None:
    """A queue, and both kinds of schedules: what the documents show."""
    project = add_events(shutil.copytree(bake(), tmp_path / "project"))
    assert list(messages(project)) == []
