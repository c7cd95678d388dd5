"""Adopted applications in Docker, through `sam local invoke`, and deployed to MiniStack."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.adopt.conftest import Adopt, lay_out
from tests.adopt.starters import FUNCTIONS, STARTERS
from tests.helpers.images import MANAGED, ProvideImage
from tests.helpers.support import run
from tests.pipeline.conftest import Cloud

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STREAM = "0\n1\n2\n3\n4\n"
# What the adopted functions of each starter answer. API Gateway, which buffers, gets the dict as it was.
ANSWERS = {
    "HelloWorldFunction": '{"statusCode": 200, "body": "{\\"message\\": \\"hello world\\"}"}',
    "ChatFunction": STREAM,
    "ReportFunction": "shared, wrapped",
}


def test_sam_local_invoke(
    adopt: Adopt, engine: Any, provide_image: ProvideImage, python_home: Path, tmp_path: Path
) -> None:
    """Each starter: an event of a REST API, Windows line breaks and Globals, two layers and a chained wrapper."""
    with ExitStack() as stack:
        stack.callback(remove_images_of_sam, engine)
        for starter, functions in FUNCTIONS.items():
            application = lay_out(starter, tmp_path / starter)
            for function in functions:
                adopt(application, function=function)
            run("sam", "build", cwd=application)
            if starter == next(iter(FUNCTIONS)):
                provide_image(MANAGED, python_home)
            event = application / "events" / "event.json"
            event.parent.mkdir(exist_ok=True)
            event.touch()
            for function in functions:
                command = ("sam", "local", "invoke", function, "--skip-pull-image", "--region", "us-east-1")
                given = ("--event", event) if event.stat().st_size else ()
                answer = run(*command, *given, cwd=application).stdout
                assert answer.rstrip("\n") == ANSWERS[function].rstrip("\n"), (starter, function)


def remove_images_of_sam(engine: Any) -> None:
    """Remove the images that SAM derived from AWS's image for functions and their layers."""
    for image in engine.images.list():
        if any("rapid" in tag or tag.startswith("samcli/") for tag in image.tags):
            engine.images.remove(image.id, force=True)


@pytest.mark.parametrize("starter", STARTERS)
def test_build_and_deployment(adopt: Adopt, cloud: Cloud, tmp_path: Path, starter: str) -> None:
    """The packages are what they were, and the layer is the runtime as it lies; deployed, and taken back."""
    application = lay_out(starter, tmp_path / "app")
    build = application / ".aws-sam" / "build"
    lambda_ = cloud.client("lambda")

    def built() -> dict[str, list[str]]:
        run("sam", "build", cwd=application)
        return {of: sorted(path.name for path in (build / of).rglob("*")) for of in FUNCTIONS[starter]}

    def deploy() -> dict[str, str]:
        options = ("--stack-name", "sam-app", "--capabilities", "CAPABILITY_IAM", "--resolve-s3")
        run("sam", "deploy", *options, "--no-confirm-changeset", cwd=application, check=True, **cloud.environment)
        found = cloud.client("cloudformation").describe_stack_resources(StackName="sam-app")["StackResources"]
        return {of["LogicalResourceId"]: of["PhysicalResourceId"] for of in found}

    before = built()
    for function in FUNCTIONS[starter]:
        adopt(application, function=function, url_auth="NONE")
    assert built() == before
    assert "ContentUri: ../../streaming/runtime\n" in (build / "template.yaml").read_text()
    resources = deploy()
    for function in FUNCTIONS[starter]:
        configuration = lambda_.get_function_configuration(FunctionName=resources[function])
        variables = configuration["Environment"]["Variables"]
        assert variables["AWS_LAMBDA_EXEC_WRAPPER"] == "/opt/bootstrap"
        wrapper = "/opt/otel-instrument" if function == "ReportFunction" else None
        assert variables.get("STREAMING_RUNTIME_EXEC_WRAPPER") == wrapper
        assert "StreamingRuntimeLayer" in configuration["Layers"][-1]["Arn"]
        assert lambda_.get_function_url_config(FunctionName=resources[function])["InvokeMode"] == "RESPONSE_STREAM"
        policy = json.loads(lambda_.get_policy(FunctionName=resources[function])["Policy"])
        actions = {statement["Action"] for statement in policy["Statement"]}
        assert {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"} <= actions
        adopt(application, function=function, undo="yes")
    assert (application / "template.yaml").read_bytes() == STARTERS[starter]["template.yaml"].encode()
    built()
    left = deploy()
    added = {name for name in resources.keys() - left.keys() if not name.startswith("StreamingRuntimeLayer")}
    parts = ("Url", "UrlPermission", "UrlInvokePermission")
    assert added == {f"{function}{part}" for function in FUNCTIONS[starter] for part in parts}
    assert left.items() <= resources.items()
    for function in FUNCTIONS[starter]:
        configuration = lambda_.get_function_configuration(FunctionName=left[function])
        assert "/opt/bootstrap" not in str(configuration.get("Environment"))
    run("sam", "delete", "--stack-name", "sam-app", "--no-prompts", cwd=application, check=True, **cloud.environment)
    assert "sam-app" not in cloud.stacks()
