"""The table of the chat examples, from template.yaml, and a request to stop that another process serves."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.helpers.rendering import load_yaml, render
from tests.helpers.support import TEMPLATE, defaults
from tests.pipeline.conftest import Cloud

from local.function_url import running
from local.template import Template

pytestmark = pytest.mark.slow

TIMEOUT = 60.0
NAME = "StreamStopTable"
SERVED = """
import os
import chat
from protocols import Finish, Text

async def answer(request):
    yield Text("Be")
    for word in ("cause", " of", " that."):
        with open(os.environ["GATE"], "rb", buffering=0) as gate:
            gate.read(1)
        yield Text(word)
    yield Finish("end_turn")

def handler(event, context):
    return chat.respond(event, answer)
"""


def deploy(cloud: Cloud, wanted: str) -> dict[str, Any]:
    """Deploy the table with CloudFormation, with this value in the mapping, and return the stack's resources."""
    rendered = load_yaml(render("template.yaml", {**defaults(), "example": "bedrock"}))
    # MiniStack resolves no FindInMap within a condition.
    assert rendered["Mappings"]["Chat"]["Stop"] == {"HasTable": "no"}
    assert rendered["Conditions"]["HasStopTable"]["Equals"] == [{"FindInMap": ["Chat", "Stop", "HasTable"]}, "yes"]
    template = {
        "Conditions": {"HasStopTable": {"Fn::Equals": [wanted, "yes"]}},
        # A stack needs a resource, and without the table this is the only one.
        "Resources": {
            NAME: rendered["Resources"][NAME],
            "Handle": {"Type": "AWS::CloudFormation::WaitConditionHandle"},
        },
    }
    cloudformation, stack = cloud.client("cloudformation"), f"chat-{wanted}"
    cloudformation.create_stack(StackName=stack, TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    found = cloudformation.describe_stack_resources(StackName=stack)["StackResources"]
    return {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in found}


def test_table(cloud: Cloud) -> None:
    """It is made only if asked for, is billed by request, and goes with the stack."""
    assert NAME not in deploy(cloud, "no")
    table, dynamodb = deploy(cloud, "yes")[NAME], cloud.client("dynamodb")
    described = dynamodb.describe_table(TableName=table)["Table"]
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    cloud.client("cloudformation").delete_stack(StackName="chat-yes")
    cloud.client("cloudformation").get_waiter("stack_delete_complete").wait(
        StackName="chat-yes", WaiterConfig={"Delay": 1}
    )
    assert dynamodb.list_tables()["TableNames"] == []


def test_stop_from_other_environment(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer ends with the next event, whichever process has left the record in the table."""
    table = deploy(cloud, "yes")[NAME]
    code, gate = tmp_path / "src", tmp_path / "gate"
    for folder in (TEMPLATE / "runtime", TEMPLATE / "examples" / "chat" / "src"):
        shutil.copytree(folder, code, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "app.py").write_text(SERVED, encoding="utf-8")
    os.mkfifo(gate)
    template, rendered = tmp_path / "template.yaml", render("template.yaml", {**defaults(), "example": "bedrock"})
    template.write_text(rendered, encoding="utf-8")
    assert "STOP_TABLE" not in Template(template).function("StreamFunction").environment
    template.write_text(rendered.replace('HasTable: "no"', 'HasTable: "yes"'), encoding="utf-8")
    assert Template(template).function("StreamFunction").environment["STOP_TABLE"] == f"<Ref.{NAME}>"
    for name, value in cloud.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    for name, value in {"STOP_TABLE": table, "STOP_INTERVAL": "0", "GATE": str(gate), "TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    function = Template(template).function("StreamFunction")
    with ExitStack() as stack:
        host = urlsplit(stack.enter_context(running(function))).netloc
        descriptor = os.open(gate, os.O_RDWR)
        stack.callback(os.close, descriptor)

        def post(path: str, body: object) -> http.client.HTTPResponse:
            connection = stack.enter_context(closing(http.client.HTTPConnection(host, timeout=TIMEOUT)))
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            return connection.getresponse()

        answer = post("/chat", {"messages": [{"role": "user", "text": "Why?"}], "id": "my-answer"})
        os.write(descriptor, b".")
        received = b"".join(answer.readline() for _ in range(6))
        assert received.count(b"event: token\n") == 2
        assert post("/stop", {"id": "my-answer"}).status == 204
        os.write(descriptor, b".")
        assert answer.read().startswith(b'event: end\ndata: {"stopReason": "cancelled"')
    [record] = cloud.client("dynamodb").scan(TableName=table)["Items"]
    assert record["id"] == {"S": "my-answer"}
    # MiniStack's CloudFormation sets no time to live.
    expiry = load_yaml(rendered)["Resources"][NAME]["Properties"]["TimeToLiveSpecification"]
    assert (expiry["Enabled"], int(record[expiry["AttributeName"]]["N"]) > time.time()) == (True, True)
