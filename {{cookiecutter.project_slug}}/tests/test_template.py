"""What must hold in `template.yaml` for the function to stream, and what linters do not see."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.function import TemplateLoader, load_function

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((PROJECT / "template.yaml").read_text(encoding="utf-8"), TemplateLoader)
    return found


@pytest.fixture(scope="module")
def resources(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"]
    return found


def test_the_url_streams_from_the_function(resources: dict[str, Any]) -> None:
    url = resources["StreamUrl"]
    assert url["Type"] == "AWS::Lambda::Url"
    assert url["Properties"]["InvokeMode"] == "RESPONSE_STREAM"
    assert url["Properties"]["TargetFunctionArn"] == {"GetAtt": "StreamFunction.Arn"}


def test_the_streaming_runtime_takes_the_place_of_the_python_client(resources: dict[str, Any]) -> None:
    properties = resources["StreamFunction"]["Properties"]
    assert properties["Runtime"].startswith("python3.")
    assert properties["Environment"]["Variables"]["AWS_LAMBDA_EXEC_WRAPPER"] == "/var/task/bootstrap"
    bootstrap = PROJECT / properties["CodeUri"] / "bootstrap"
    assert os.access(bootstrap, os.X_OK), "Lambda refuses to start a wrapper that is not executable"


def test_sam_builds_the_function_with_our_makefile(resources: dict[str, Any]) -> None:
    metadata = resources["StreamFunction"]["Metadata"]
    assert metadata == {"BuildMethod": "makefile", "ContextPath": ".", "WorkingDirectory": "."}
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert "\nbuild-StreamFunction:" in makefile


def test_the_handler_exists() -> None:
    function = load_function(PROJECT / "template.yaml", "StreamFunction")
    module, _, name = function.handler.rpartition(".")
    source = (function.code / f"{module}.py").read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {name}\(|^{name} = ", source, re.MULTILINE)


def test_limits(resources: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
    properties = resources["StreamFunction"]["Properties"]
    assert 1 <= properties["Timeout"] <= 900
    assert 128 <= properties["MemorySize"] <= 10240
    assert properties["Architectures"] in (["arm64"], ["x86_64"])


def test_the_outputs_name_what_is_deployed(template: dict[str, Any]) -> None:
    assert {name: output["Value"] for name, output in template["Outputs"].items()} == {
        "StreamUrl": {"GetAtt": "StreamUrl.FunctionUrl"},
        "StreamFunctionName": {"Ref": "StreamFunction"},
        "StreamFunctionArn": {"GetAtt": "StreamFunction.Arn"},
    }


def test_who_may_call_the_url(resources: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
    granted = sorted(
        (
            resource["Properties"]["Action"],
            resource["Properties"]["Principal"],
            resource["Properties"].get("FunctionUrlAuthType"),
            resource["Properties"].get("InvokedViaFunctionUrl"),
            *resource["Properties"]["FunctionName"].items(),
        )
        for resource in resources.values()
        if resource["Type"] == "AWS::Lambda::Permission"
    )
    # Where the URL is that of an alias, so are the permissions.
    alias = resources["StreamUrl"]["Properties"].get("Qualifier", "")
    function = ("Ref", f"StreamFunctionAlias{alias}" if alias else "StreamFunction")
    assert resources["StreamUrl"].get("DependsOn") == (function[1] if alias else None)
    assert resources["StreamFunction"]["Properties"].get("AutoPublishAlias", "") == alias
    public = [
        ("lambda:InvokeFunction", "*", None, True, function),
        ("lambda:InvokeFunctionUrl", "*", "NONE", None, function),
    ]
    auth_type = resources["StreamUrl"]["Properties"]["AuthType"]
    assert auth_type in ("AWS_IAM", "NONE")
    assert granted == (public if auth_type == "NONE" else [])
