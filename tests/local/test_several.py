"""`make dev` with several functions: each behind its own URL, in one log and one inspector."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.helpers.support import TEMPLATE, run
from tests.local.conftest import TIMEOUT

from local.events import match_route
from local.template import Template, TemplateError
from local.terminal import Terminal

RESOURCES = """
Globals:
  Function:
    Runtime: python3.13
    Timeout: 60
Resources:
  ChatFunction:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: chat
      Handler: served.handler
      Environment: &runs {Variables: {AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap}}
  ChatUrl:
    Type: AWS::Lambda::Url
    Properties: {TargetFunctionArn: !Ref ChatFunctionAliaslive, InvokeMode: RESPONSE_STREAM}
  StreamFunction:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: src
      Handler: served.handler
      FunctionUrlConfig: {InvokeMode: RESPONSE_STREAM}
      Environment: {Variables: {ORDERS: !Ref Orders, AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap}}
  WebFunction:
    Type: AWS::Serverless::Function
    Properties:
      Environment: *runs
      CodeUri: web
      Handler: served.handler
      Events:
        Item: {Type: Api, Properties: {Path: "/items/{id}", Method: get, ResponseTransferMode: RESPONSE_STREAM}}
  PlainFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: plain, Handler: served.handler, FunctionUrlConfig: {InvokeMode: BUFFERED}}
  WorkerFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: worker, Handler: served.handler, Events: {Q: {Type: SQS, Properties: {Queue: !Ref Orders}}}}
  NodeFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: plain, Runtime: nodejs24.x, FunctionUrlConfig: {}}
  Orders: {Type: AWS::SQS::Queue}
"""
HANDLERS = {
    "src": """
import os
def handler(event, context):
    yield 'stream '
    yield event['rawPath'] + os.environ['ORDERS']
""",
    "chat": """
def handler(event, context):
    print('log of', event['rawPath'])
    yield from ('chat ', event['rawPath'])
""",
    "web": """
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from streaming_runtime import AsgiHandler
app = FastAPI()
@app.get("/items/{number}")
async def item(number: int):
    async def parts():
        yield "web "
        yield f"/items/{number}"
    return StreamingResponse(parts())
handler = AsgiHandler(app)
""",
    "plain": "def handler(event, context):\n    return {'statusCode': 200, 'body': 'plain ' + event['rawPath']}\n",
    "worker": "def handler(event, context):\n    return len(event['Records'])\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(TEMPLATE / "runtime", tmp_path / "runtime")
    for folder, source in HANDLERS.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "served.py").write_text(source, encoding="utf-8")
    (tmp_path / "template.yaml").write_text(RESOURCES, encoding="utf-8")
    return tmp_path


@contextmanager
def served(project: Path, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run `python -m local`; return the process and what it printed until it served."""
    process = subprocess.Popen(
        [sys.executable, "-m", "local", "--port", "0", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(TEMPLATE), **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not (line := process.stdout.readline()).startswith("Press Ctrl-C"):
            assert line, lines
            lines.append(line.rstrip("\n"))
        yield process, lines
    finally:
        process.kill()
        process.communicate()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        return str(response.read().decode())


@pytest.mark.slow
def test_five_functions_with_100_clients(project: Path) -> None:
    with served(project, ORDERS="-given") as (process, lines):
        rows = [re.split(r"  +", line) for line in lines]
        urls = {row[0]: row[3] for row in rows[1:5]}
        assert [row[:3] for row in rows[:5]] == [
            ["function", "handler", "response"],
            ["StreamFunction", "served.handler", "streams"],
            ["ChatFunction", "served.handler", "streams"],
            ["WebFunction", "served.handler", "streams, REST API"],
            ["PlainFunction", "served.handler", "buffered"],
        ]
        assert rows[5] == ["WorkerFunction", "no URL", "make invoke FUNCTION=WorkerFunction"]
        assert lines[6] == "Not served: NodeFunction runs on nodejs24.x"
        assert lines[7].startswith("Inspector at ")  # a function that is to buffer needs no warning
        assert [line for line in lines if "placeholder" in line] == []  # the shell sets ORDERS
        paths = {"StreamFunction": "", "ChatFunction": "", "WebFunction": "items/", "PlainFunction": ""}
        calls = [(name, f"{paths[name]}{number}") for number in range(25) for name in urls]
        with ThreadPoolExecutor(100) as clients:
            answers = [*clients.map(lambda call: get(urls[call[0]] + call[1]), calls)]
        expected = {"StreamFunction": "stream /{}-given", "ChatFunction": "chat /{}"}
        expected |= {"WebFunction": "web /{}", "PlainFunction": "plain /{}"}
        assert answers == [expected[name].format(path) for name, path in calls]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(urls["WebFunction"] + "orders")
        inspector = next(line for line in lines if line.startswith("Inspector at ")).rpartition(" ")[2]
        check_inspector(inspector, urls)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT)
    printed = [line.split(" | ", 1) for line in output.splitlines()]
    logs = {text for name, text in printed if text.startswith("log of ")}
    assert logs == {f"log of /{number}" for number in range(25)}
    assert {name.strip() for name, text in printed if text.startswith("log of ")} == {"ChatFunction"}
    ended = [name.strip() for name, text in printed if re.match(r"GET \S+  200  ", text)]
    assert {name: ended.count(name) for name in urls} == dict.fromkeys(urls, 25)
    (project / "orders.json").write_text('{"Records": [{}, {}]}', encoding="utf-8")
    invoke = (sys.executable, "-m", "local", "--function", "WorkerFunction", "--event", "orders.json")
    assert run(*invoke, cwd=project, PYTHONPATH=str(TEMPLATE)).stdout == "2"


def check_inspector(inspector: str, urls: dict[str, str]) -> None:
    """Fail unless the inspector knows each function, tells them apart, and sends events to the chosen one."""
    with urllib.request.urlopen(f"{inspector}invocations", timeout=TIMEOUT) as stream:
        updates = (json.loads(line[6:]) for line in stream if line.startswith(b"data: "))
        hello = next(updates)
        assert hello["functions"] == [{"name": name, "url": url} for name, url in urls.items()]
        seen = next(update for update in updates if update["kind"] == "invoked")
        assert seen["function"] in urls
        for name, status in (("PlainFunction", 202), ("Other", 404)):
            request = urllib.request.Request(
                f"{inspector}invocations?function={name}",
                data=b'{"rawPath": "/sent"}',
                headers={"content-type": "application/json"},
            )
            try:
                answer = urllib.request.urlopen(request, timeout=TIMEOUT)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                assert answer.status == status
        sent = next(of for of in updates if of["kind"] == "invoked" and of["event"] == {"rawPath": "/sent"})
        assert sent["function"] == "PlainFunction"


@pytest.mark.slow
def test_placeholders_are_named(project: Path) -> None:
    with served(project, "--no-inspector") as (_, lines):
        warning = (
            "ORDERS of StreamFunction is a placeholder. Set Orders in local/overrides.env, or ORDERS in the shell."
        )
        assert warning in lines


@pytest.mark.slow
def test_one_function_of_several(project: Path) -> None:
    with served(project, "--function", "ChatFunction", "--no-inspector") as (_, lines):
        assert re.fullmatch(r"ChatFunction \(served\.handler\) streams at http://127\.0\.0\.1:\d+/", lines[0])


REFERENCES = """
Parameters:
  Stage: {Type: String, Default: test}
Resources:
  F:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: src
      Environment:
        Variables:
          NAME: !Ref Table
          ARN: !GetAtt Table.Arn
          LONG: {"Fn::GetAtt": [Table, Arn]}
          TEXT: !Sub "${Stage}-${Table}-${Table.Arn}-${AWS::StackName}"
          STAGE: !Ref Stage
          PLAIN: text
"""


@pytest.mark.parametrize(
    ("overrides", "shell", "expected", "placeholders"),
    [
        (
            "",
            {},
            {"NAME": "<Ref.Table>", "ARN": "<GetAtt.Table.Arn>", "TEXT": "test-<Table>-<Table.Arn>-<AWS::StackName>"},
            {
                "NAME": ["Table"],
                "ARN": ["Table.Arn"],
                "LONG": ["Table.Arn"],
                "TEXT": ["Table", "Table.Arn", "AWS::StackName"],
            },
        ),
        (
            "# mine\n\nTable = orders\nTable.Arn=arn:aws:x=y\nStage=dev\nAWS::StackName=s\n",
            {},
            {"NAME": "orders", "ARN": "arn:aws:x=y", "LONG": "arn:aws:x=y", "TEXT": "dev-orders-arn:aws:x=y-s"},
            {},
        ),
        (
            "NAME=own\nTEXT=own\nPLAIN=mine",
            {"Table_Arn": "arn", "Stage": "ignored"},
            {"NAME": "own", "ARN": "arn", "LONG": "arn", "TEXT": "own", "STAGE": "test", "PLAIN": "mine"},
            {},
        ),
    ],
    ids=["nothing given", "file", "variables and shell"],
)
def test_references_resolve(
    overrides: str,
    shell: dict[str, str],
    expected: dict[str, str],
    placeholders: dict[str, list[str]],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    (project / "overrides.env").write_text(overrides, encoding="utf-8")
    (project / "template.yaml").write_text(REFERENCES, encoding="utf-8")
    template = Template(project / "template.yaml", project / "overrides.env")
    found = template.function("F").environment
    assert {name: found[name] for name in expected} == expected
    assert template.placeholders("F") == placeholders


CHOICES = """
Parameters:
  Stage: {Type: String, Default: test}
  Region: {Type: String}
Mappings:
  Stages: {test: {table: tests}}
Conditions:
  IsTest: !Equals [!Ref Stage, test]
  IsOther: !Not [!Condition IsTest]
  Both: !And [!Condition IsTest, !Condition IsOther]
  Either: {"Fn::Or": [{Condition: IsTest}, {Condition: IsOther}]}
  OnlyAwsKnows: !Equals [!Ref Region, a]
  Odd: !Equals a
  Unknown: !Perhaps [!Condition IsTest]
Resources:
  F:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: src
      Timeout: !If [IsOther, 7, 9]
      Environment:
        Variables:
          THEN: !If [IsTest, !Ref Table, a]
          ELSE: {"Fn::If": [Both, a, !If [Either, !Sub "${Stage}s", a]]}
          NOTHING: !If [IsOther, a, !Ref AWS::NoValue]
          AWS: !If [OnlyAwsKnows, a, b]
          ODD: !If [Odd, a, b]
          UNKNOWN: !If [Unknown, a, b]
          MISSING: !If [Missing, a, b]
          SHORT: !If [IsTest]
          MAPPED: !FindInMap [Stages, !Ref Stage, table]
"""


def test_conditions_are_decided_by_parameters(project: Path) -> None:
    (project / "template.yaml").write_text(CHOICES, encoding="utf-8")
    template = Template(project / "template.yaml", project / "none")
    function = template.function("F")
    assert function.timeout == 9
    placeholders = template.placeholders("F")
    assert (function.environment["THEN"], function.environment["ELSE"]) == ("<Ref.Table>", "tests")
    assert function.environment["MAPPED"] == "tests"
    assert "NOTHING" not in function.environment
    assert placeholders.pop("THEN") == ["Table"]
    assert placeholders.keys() == {"AWS", "ODD", "UNKNOWN", "MISSING", "SHORT"}
    (project / "overrides.env").write_text("Stage=production\n", encoding="utf-8")
    changed = Template(project / "template.yaml", project / "overrides.env").function("F")
    assert changed.timeout == 7
    assert changed.environment["MAPPED"].startswith("<FindInMap")
    assert [changed.environment[name] for name in ("THEN", "ELSE", "NOTHING")] == ["a", "productions", "a"]


def test_broken_overrides(project: Path) -> None:
    (project / "overrides.env").write_text("A=1\nOrders\n", encoding="utf-8")
    with pytest.raises(TemplateError, match=r"overrides\.env, line 2: must be name=value, such as .*, got 'Orders'"):
        Template(project / "template.yaml", project / "overrides.env")


@pytest.mark.parametrize("target", ["!Ref F.Alias", "!Ref FAliaslive", "!GetAtt F.Arn"])
def test_url_of_an_alias(target: str, project: Path) -> None:
    url = f"U: {{Type: AWS::Lambda::Url, Properties: {{TargetFunctionArn: {target}, InvokeMode: BUFFERED}}}}"
    text = f"Resources: {{F: {{Type: AWS::Serverless::Function, Properties: {{CodeUri: src}}}}, {url}}}"
    (project / "template.yaml").write_text(text, encoding="utf-8")
    function = Template(project / "template.yaml").function("F")
    assert (function.has_url, function.streams) == (True, False)


def test_function_without_runtime_is_buffered(project: Path) -> None:
    text = RESOURCES.replace("AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap", "STAGE: test")
    (project / "template.yaml").write_text(text, encoding="utf-8")
    template = Template(project / "template.yaml")
    chat, plain = map(template.function, ("ChatFunction", "PlainFunction"))
    assert (chat.streams, chat.lacks_runtime, plain.streams, plain.lacks_runtime) == (False, True, False, False)
    printed = io.StringIO()
    Terminal(printed).show_differences(chat, [])
    assert printed.getvalue() == (
        "ChatFunction has no streaming runtime: a response is sent when it is complete, as on Lambda.\n"
    )


ROUTES = [("get", "/items/{id}"), ("ANY", "/{proxy+}"), ("post", "/items/new"), ("GET", "/items/new")]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/items/1", ("/items/{id}", {"id": "1"})),
        ("GET", "/items/new", ("/items/new", {})),
        ("PUT", "/items/1", ("/{proxy+}", {"proxy": "items/1"})),
        ("GET", "/a/b", ("/{proxy+}", {"proxy": "a/b"})),
        ("GET", "/", None),
    ],
)
def test_routes(method: str, path: str, expected: object) -> None:
    assert match_route(ROUTES, method, path) == expected
