"""Amazon Bedrock's ConverseStream on localhost: it answers botocore with the frames that a test makes."""

import json
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FRAMES = "application/vnd.amazon.eventstream"


class Cut(Exception):
    """Raised by an answer's iterator: the connection breaks there."""


class BedrockServer(ThreadingHTTPServer):
    """Answers each request with the next of `answers`, and the last one again.

    Attributes:
        answers: Each is frames, or status, code and message of an error.
        requests: Path and JSON of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Iterable[bytes] | tuple[int, str, str]] = []
        self.requests: list[tuple[str, Any]] = []

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables for botocore: this server's address, invalid credentials, and no second attempt."""
        return {
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BedrockServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, json.loads(body)))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, tuple):
            status, code, message = answer
            error = json.dumps({"message": message}).encode()
            self.send_response(status)
            self.send_header("x-amzn-errortype", code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(error)))
            self.end_headers()
            self.wfile.write(error)
            return
        self.send_response(200)
        self.send_header("content-type", FRAMES)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for piece in answer:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except (Cut, ConnectionError):  # or the function closed the connection
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Write no log."""


@contextmanager
def bedrock_server() -> Iterator[BedrockServer]:
    """Run a server in a thread."""
    with BedrockServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def frame(name: str, data: Any, kind: str = "event") -> bytes:
    """Return a message of AWS's event stream encoding: https://smithy.io/2.0/aws/amazon-eventstream.html"""
    headers = b"".join(
        struct.pack("!B", len(key)) + key.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for key, value in ((":message-type", kind), (f":{kind}-type", name), (":content-type", "application/json"))
    )
    payload = json.dumps(data).encode()
    prelude = struct.pack("!II", len(headers) + len(payload) + 16, len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


def exception(name: str, message: str) -> bytes:
    """Return the frame of an error in the middle of a stream."""
    return frame(name, {"message": message}, "exception")


def text(*pieces: str) -> list[bytes]:
    """Return the frames of a text."""
    return [frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}}) for piece in pieces]


def reasoning(*pieces: str) -> list[bytes]:
    """Return the frames of what the model thinks."""
    deltas = [{"reasoningContent": {"text": piece}} for piece in pieces]
    return [frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta}) for delta in deltas]


def tool(call_id: str, name: str, *pieces: str) -> list[bytes]:
    """Return the frames of a tool call, whose input comes in pieces."""
    start = {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": call_id, "name": name}}}
    deltas = [{"contentBlockIndex": 1, "delta": {"toolUse": {"input": piece}}} for piece in pieces]
    return [
        frame("contentBlockStart", start),
        *(frame("contentBlockDelta", delta) for delta in deltas),
        frame("contentBlockStop", {"contentBlockIndex": 1}),
    ]


def answer(*parts: list[bytes], reason: str = "end_turn", tokens: tuple[int, int] = (3, 5)) -> list[bytes]:
    """Return the frames of a whole answer."""
    usage = {"inputTokens": tokens[0], "outputTokens": tokens[1], "totalTokens": sum(tokens)}
    return [
        frame("messageStart", {"role": "assistant"}),
        *(piece for part in parts for piece in part),
        frame("messageStop", {"stopReason": reason}),
        frame("metadata", {"usage": usage, "metrics": {"latencyMs": 9}}),
    ]
