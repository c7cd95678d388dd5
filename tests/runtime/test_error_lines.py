"""Errors name a line of the function's code and a remedy, also where their traceback has none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest
from tests.helpers.sandbox import EARLY, Ended, Sandbox
from tests.helpers.scripted_api import due, event

HTTP = json.dumps(
    {"requestContext": {"http": {"method": "GET"}}, "rawPath": "/", "rawQueryString": "", "headers": {}}
).encode()
IMPORTS = "import time\nfrom streaming_runtime import *\n"
ITEMS = "EventSourceResponse makes events"
ADD = "; add `{}` to src/requirements.txt"
#: Code, the message's end, and the line that the last entry of the stack trace shows.
MISTAKES = {
    "missing package": ("def load():\n    import yaml_x\nload()\n", ADD.format("yaml_x"), "import yaml_x"),
    "package of another name": ("import bs4\n", ADD.format("beautifulsoup4"), "import bs4"),
    "name that a module lacks": ("from os import nothing\n", "({os})", "from os import nothing"),
    "wrong handler name": (
        "def main(event, context):\n    pass\n",
        "set Handler in template.yaml to app.main",
        "def main(event, context):",
    ),
    "no function": ("x = 1\n", "set Handler in template.yaml to app.NAME of a function", "x = 1"),
    "dict": ("def handler(e, c):\n    yield {'a': 1}\n", ITEMS, "yield {'a': 1}"),
    "dict of an inner generator": (
        "def parts():\n    yield b''\n    yield {}\ndef handler(e, c):\n    yield from parts()\n",
        ITEMS,
        "yield {}",
    ),
    "dict of an async generator": ("async def handler(e, c):\n    yield {'a': 1}\n", ITEMS, "yield {'a': 1}"),
    "event of a wrong type": (
        "def events():\n    yield 1\ndef handler(e, c):\n    return EventSourceResponse(events())\n",
        "an event is a ServerSentEvent, a dict or a str, not int",
        "yield 1",
    ),
    "function not called": (
        "def items():\n    yield b''\ndef handler(e, c):\n    return items\n",
        "it is the function 'items', not what that returns: call it, as in `return items()`",
        "def items():",
    ),
    "function as content": (
        "def items():\n    yield b''\ndef handler(e, c):\n    return StreamingResponse(items)\n",
        "content is the function 'items', not what that returns: call it, as in `items()`",
        "return StreamingResponse(items)",
    ),
    "content that cannot be streamed": (
        "def handler(e, c):\n    return StreamingResponse(5)\n",
        "'int' object is not iterable",
        "def handler(e, c):",
    ),
    "value without JSON form": (
        "def handler(e, c):\n    return {1}\n",
        "make it a JSON value first, such as a date by isoformat()",
        "def handler(e, c):",
    ),
    "invalid status": (
        "def handler(e, c):\n    return {'statusCode': 9}\n",
        "from 200 to 599, not 9",
        "def handler(e, c):",
    ),
}


def report_of(ended: Ended) -> dict[str, object]:
    """The one error object that was posted, whose stack trace the log shows too."""
    (post,) = ended.posts
    if post.target.endswith("/response"):
        from binascii import a2b_base64

        report: dict[str, object] = json.loads(a2b_base64(post.trailers["lambda-runtime-function-error-body"]))
    else:
        report = json.loads(post.body)
    assert isinstance(report["stackTrace"], list)
    shown = ended.output.replace("\xa0", " ").replace("\r", "\n")
    assert all(line.strip() in shown for entry in report["stackTrace"] for line in entry.splitlines())
    return report


@pytest.mark.traced
@pytest.mark.parametrize(("code", "message", "line"), MISTAKES.values(), ids=list(MISTAKES))
def test_mistake(sandbox: Sandbox, code: str, message: str, line: str) -> None:
    report = report_of(sandbox.run(IMPORTS + code, event()))
    assert isinstance(report["stackTrace"], list)
    entries = [entry for entry in report["stackTrace"] if "/streaming_runtime/" not in entry]
    number = (IMPORTS + code).splitlines().index(next(text for text in (IMPORTS + code).splitlines() if line in text))
    if line == "x = 1":  # the first line stands for the module
        number, line = 0, "import time"
    pattern = re.compile(rf'  File "{re.escape(str(sandbox.task))}/app\.py", line {number + 1}, in \S+\n    (.*)\n')
    assert (found := pattern.fullmatch(entries[-1])), entries
    assert line in found[1]
    import os

    assert str(report["errorMessage"]).endswith(message.replace("{os}", os.__file__)) or "{os}" in message


def test_no_traceback_without_frames(sandbox: Sandbox) -> None:
    """An unknown module, a malformed name and a malformed event are not about a line of the function."""
    for environment, body in (({"_HANDLER": "none.handler"}, b""), ({"_HANDLER": "app"}, b""), ({}, b"{")):
        ended = sandbox.run("def handler(e, c):\n    pass\n", event(body), environment=environment)
        assert report_of(ended)["stackTrace"] == []
        assert ended.output.startswith("[ERROR] Runtime.")
        assert "Traceback" not in ended.output


FORGOTTEN: dict[str, tuple[str, bytes, Mapping[str, str | None], str]] = {
    "text": ("def handler(e, c):\n    [1]\n", HTTP, {}, r"\[WARNING\]\t\S+\.\d{3}Z\t\S+\t"),
    "JSON": (
        "async def handler(e, c):\n    [1]\n",
        HTTP,
        {"AWS_LAMBDA_LOG_FORMAT": "JSON"},
        r'\{"timestamp": "\S+Z", "level": "WARNING", "message": "',
    ),
}


@pytest.mark.traced
@pytest.mark.parametrize(("code", "body", "environment", "head"), FORGOTTEN.values(), ids=list(FORGOTTEN))
def test_forgotten_return(
    sandbox: Sandbox, code: str, body: bytes, environment: Mapping[str, str | None], head: str
) -> None:
    ended = sandbox.run(code, event(body), environment=environment)
    assert ended.bodies == [b"null"]
    where = re.escape(f'File "{sandbox.task / "app.py"}", line 1, in handler').replace('"', r'\\?"')
    message = "the handler returned None, which is sent as null; is a `return` missing\\? "
    assert re.match(head + message + where, ended.output), ended.output


def test_no_warning_without_an_http_request(sandbox: Sandbox) -> None:
    ended = sandbox.run("def handler(e, c):\n    pass\n", event())
    assert (ended.bodies, ended.output) == ([b"null"], "")


WAITING = {
    "thread": "import asyncio\nasync def handler(e, c):\n    await asyncio.to_thread(work)\n",
    "endpoint": (
        "from fastapi import FastAPI\napp = FastAPI()\n@app.get('/')\ndef index():\n    work()\n"
        "handler = AsgiHandler(app)\n"
    ),
}


@pytest.mark.traced
@pytest.mark.own_interpreter
@pytest.mark.parametrize("code", WAITING.values(), ids=list(WAITING))
def test_deadline_shows_the_line_of_a_thread(sandbox: Sandbox, code: str) -> None:
    """The event loop waits for a thread; the report ends with the line of app.py that this thread runs."""
    installed = sandbox.task / "app-1.dist-info"
    installed.mkdir()
    (installed / "RECORD").write_text("other/__init__.py,sha256=x,1\nother.py,,\n", encoding="utf-8")
    (sandbox.task / "empty-1.dist-info").mkdir()
    work = "def work():\n    time.sleep(4)\n"
    ended = sandbox.run(IMPORTS + work + code, due(HTTP, 4500), environment=EARLY)
    report = report_of(ended)
    assert report["errorType"] == "StreamDeadlineExceeded"
    assert isinstance(report["stackTrace"], list)
    assert "In a thread\n" in report["stackTrace"]
    frame = f'  File "{sandbox.task / "app.py"}", line 4, in work\n    time.sleep(4)\n'
    assert report["stackTrace"][-1] == frame
