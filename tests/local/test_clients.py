"""The code of docs/clients.md, against a function whose process dies once and which fails once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from tests.helpers.documents import document
from tests.local.conftest import TIMEOUT, Serve, needs_chromium

HANDLER = """
    from streaming_runtime import EventSourceResponse, ServerSentEvent

    def events(last):
        for number in range(last + 1, 6):
            if number == 2 and not last:
                os._exit(1)
            if number == 4 and last == 1:
                raise RuntimeError("failed")
            yield ServerSentEvent({"number": number}, event="step", id=str(number))
        yield ServerSentEvent({}, event="end")

    def lines(broken):
        yield "one\\n"
        if broken:
            raise RuntimeError("broken")
        yield "two\\n"

    def handler(event, context):
        if event["rawPath"] == "/events":
            return EventSourceResponse(events(int(event["headers"].get("last-event-id", 0))))
        if event["rawPath"] == "/":
            return StreamingResponse("<title>A page</title>", media_type="text/html")
        return StreamingResponse(lines("broken" in event["rawQueryString"]), media_type="text/plain")
    """
EVENTS = [
    'step {"number": 1}',
    'step {"number": 2}',
    'step {"number": 3}',
    'error {"errorType": "RuntimeError"}',
    'step {"number": 4}',
    'step {"number": 5}',
    "end {}",
]


def code(language: str, of: str = "") -> str:
    """Return the one block of the document in a language that contains a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)```", document("docs/clients.md"), re.DOTALL | re.MULTILINE)
    [found] = [block for block in blocks if of in block]
    return str(found)


def python(source: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code of the document with a user's credentials."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=cwd,
        env={**os.environ, **keys, **more},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_python_continues_after_break(serve: Serve) -> None:
    source = code("python", "def events").replace("https://YOUR-URL/", serve(HANDLER).url)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    breaks = [f"again after {number}: RemoteProtocolError" for number in (1, 3)]
    assert done.stdout.splitlines() == [EVENTS[0], breaks[0], *EVENTS[1:4], breaks[1], *EVENTS[4:]], done.stderr


@pytest.mark.parametrize(("query", "status", "shown"), [("", 0, "one\ntwo\n"), ("?broken", 18, "one\n")])
def test_curl_notices_break(query: str, status: int, shown: str, serve: Serve) -> None:
    command = code("sh").replace("https://YOUR-URL/", serve(HANDLER).url).strip() + query
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (status, shown)


@pytest.mark.slow
@needs_chromium
def test_javascript_continues_after_break(serve: Serve, browser: Any) -> None:
    url = serve(HANDLER).url
    page = browser.new_page()
    page.goto(url)
    found = page.evaluate(
        "async () => {" + code("js") + "const found = [];"
        "for await (const {type, data} of events('/events')) found.push(`${type} ${data}`); return found; }"
    )
    page.close()
    assert found == EVENTS


@pytest.mark.parametrize(("query", "shown"), [("", "one\ntwo\n"), ("?broken", "one\nthe response broke off\n")])
def test_aiohttp_notices_break(query: str, shown: str, serve: Serve, tmp_path: Path) -> None:
    source = code("python", "aiohttp").replace("https://YOUR-URL/lines", f"{serve(HANDLER).url}lines{query}")
    done = python(source, tmp_path)
    assert (done.returncode, done.stdout) == (0, shown), done.stderr


# What the function received, before it is read back to sign it again.
RECEIVED = """
    import json
    def handler(event, context):
        yield json.dumps([event["headers"], event["body"]])
    """


def test_signature_is_for_what_arrives(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{serve(RECEIVED).url}lines"
    done = python(code("python", "SigV4Auth").replace("https://YOUR-URL/lines", url), tmp_path)
    assert done.returncode == 0, done.stderr
    headers, body = json.loads(done.stdout)
    request = AWSRequest("POST", url, {"content-type": headers["content-type"]}, body.encode())
    request.context["timestamp"] = headers["x-amz-date"]
    request.headers["X-Amz-Date"] = headers["x-amz-date"]
    auth = SigV4Auth(Credentials("AKIDEXAMPLE", "secret"), "lambda", "us-east-1")
    text = auth.string_to_sign(request, auth.canonical_request(request))
    assert headers["authorization"].endswith(f"Signature={auth.signature(text, request)}")


class Frames(BaseHTTPRequestHandler):
    """Lambda's InvokeWithResponseStream: event stream frames, one for each chunk, and one for the end."""

    frames: tuple[bytes, ...] = ()

    def do_POST(self) -> None:
        assert self.path.endswith("/functions/lambda-stream/response-streaming-invocations")
        self.server.event = json.loads(self.rfile.read(int(self.headers["content-length"])))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-type", "application/vnd.amazon.eventstream")
        self.end_headers()
        for each in self.frames:
            self.wfile.write(each)
            self.wfile.flush()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("error", ["", "Unhandled"])
def test_invoke_with_response_stream(error: str, tmp_path: Path) -> None:
    end = {"ErrorCode": error, "ErrorDetails": "failed"} if error else {}
    chunks = [b'{"statusCode": 200}', b"\0" * 8 + b"on", b"e\n", b"two\n"]
    frames = (*(frame("PayloadChunk", chunk) for chunk in chunks), frame("InvokeComplete", json.dumps(end).encode()))
    server = HTTPServer(("127.0.0.1", 0), type("Frames", (Frames,), {"frames": frames}))
    threading.Thread(target=server.handle_request, daemon=True).start()
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "get.json").write_text('{"version": "2.0"}', encoding="utf-8")
    endpoint = f"http://127.0.0.1:{server.server_port}"
    done = python(code("python", "invoke_with_response_stream"), tmp_path, AWS_ENDPOINT_URL=endpoint)
    server.server_close()
    assert done.stdout == "one\ntwo\n", done.stderr
    assert ("RuntimeError: Unhandled: failed" in done.stderr) == bool(error)
    assert server.event == {"version": "2.0"}  # type: ignore[attr-defined]


def frame(kind: str, payload: bytes) -> bytes:
    """Return an event in AWS's encoding: https://smithy.io/2.0/aws/amazon-eventstream.html"""
    headers = b""
    for name, value in ((":message-type", "event"), (":event-type", kind)):
        headers += bytes([len(name)]) + name.encode() + b"\7" + len(value).to_bytes(2, "big") + value.encode()
    prelude = (len(headers) + len(payload) + 16).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = prelude + crc32(prelude).to_bytes(4, "big") + headers + payload
    return message + crc32(message).to_bytes(4, "big")
