"""The environment variables and the context that a function sees."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import pytest
from tests.helpers.support import TEMPLATE
from tests.local.conftest import Serve
from tests.local.conftest import function as of_handler

from local.aws import AwsConfig
from local.environment import environment
from local.template import Function


@pytest.fixture
def function() -> Function:
    """A function with variables of each kind."""
    variables = {
        "OF_TEMPLATE": "template",
        "OF_BOTH": "template",
        "AWS_LAMBDA_EXEC_WRAPPER": "/var/task/bootstrap",
        "_HANDLER": "other.handler",
    }
    aws = AwsConfig("eu-central-1")
    return of_handler(name="Named", handler="app.handler", timeout=30, memory=512, environment=variables, aws=aws)


def test_environment_variables(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_BOTH", "shell")
    monkeypatch.setenv("OF_SHELL", "shell")
    monkeypatch.setenv("AWS_LAMBDA_EXEC_WRAPPER", "/opt/wrapper")
    monkeypatch.setenv("LAMBDA_TASK_ROOT", "/elsewhere")
    monkeypatch.setenv("AWS_REGION", "us-west-1")  # the template was read before
    found = environment(function, "127.0.0.1:9001", {})
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", found.pop("AWS_LAMBDA_LOG_STREAM_NAME"))
    assert "AWS_LAMBDA_EXEC_WRAPPER" not in found
    expected = {
        "OF_TEMPLATE": "template",
        "OF_BOTH": "shell",
        "OF_SHELL": "shell",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_FUNCTION_NAME": "Named",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/Named",
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
        "LAMBDA_TASK_ROOT": str(TEMPLATE / "src"),
        "TZ": ":UTC",
        "_HANDLER": "app.handler",
    }
    assert {name: found.get(name) for name in expected} == expected


def test_bundled_interpreter(function: Function, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STREAMING_RUNTIME_PYTHON", raising=False)
    assert environment(function, "", {})["STREAMING_RUNTIME_PYTHON"] == sys.executable
    (tmp_path / "python" / "bin").mkdir(parents=True)
    (tmp_path / "python" / "bin" / "python3").touch()
    assert "STREAMING_RUNTIME_PYTHON" not in environment(dataclasses.replace(function, code=tmp_path), "", {})


def test_os_only_runtime_has_no_execution_env(function: Function) -> None:
    assert "AWS_EXECUTION_ENV" not in environment(dataclasses.replace(function, runtime="provided.al2023"), "", {})


def test_credentials_replace_profile(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "one")
    monkeypatch.setenv("AWS_DEFAULT_PROFILE", "two")
    assert environment(function, "", {})["AWS_PROFILE"] == "one"
    found = environment(function, "", {"AWS_ACCESS_KEY_ID": "key"})
    assert found["AWS_ACCESS_KEY_ID"] == "key"
    assert not found.keys() & {"AWS_PROFILE", "AWS_DEFAULT_PROFILE"}


def test_handler_sees_environment(serve: Serve) -> None:
    served = serve(
        """
        def handler(event, context):
            return {
                "variable": os.environ["VARIABLE"],
                "folder": os.getcwd(),
                "input": os.read(0, 1).decode(),
                "name": context.function_name,
                "memory": context.memory_limit_in_mb,
                "arn": context.invoked_function_arn,
                "left": context.get_remaining_time_in_millis(),
                "trace": os.environ["_X_AMZN_TRACE_ID"],
                "id": context.aws_request_id,
            }
        """,
        VARIABLE="from the template",
        timeout=20,
        url={"aws": AwsConfig("eu-west-1")},
    )
    seen = json.loads(served.get()[1])
    assert 15_000 < seen.pop("left") <= 20_000
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", seen.pop("trace"))
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", seen.pop("id"))
    assert int(seen.pop("memory")) == 256
    assert seen == {
        "variable": "from the template",
        "folder": os.path.realpath(TEMPLATE / "src"),
        "input": "",
        "name": "Served",
        "arn": "arn:aws:lambda:eu-west-1:123456789012:function:Served",
    }
