"""Lambda's Runtime API over a socket. One connection carries one invocation: its event in, its response out.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import json
import socket
from binascii import b2a_base64

from . import errors, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VERSION = "/2018-06-01/runtime"
_ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
_ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
_XRAY_CAUSE = "Lambda-Runtime-Function-XRay-Error-Cause"
_RECEIVE_SIZE = 64 * 1024


class RuntimeApiError(Exception):
    """The Runtime API cannot be reached, broke off, or refused a request."""


class Invocation:
    """One event and what Lambda says about it.

    Attributes:
        request_id: Id of the invocation.
        body: The event as it came.
        content_type: Of the event.
        deadline_ms: When Lambda ends the invocation, in milliseconds since the epoch.
        function_arn: What was invoked.
        trace_id: AWS X-Ray tracing header, or None.
        client_context: JSON text of the client context, or None.
        cognito_identity: JSON text of the identity, or None.
        tenant_id: Tenant, or None.
        invocation_id: To be handed back with the response, or None.
    """

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        def header(name: str) -> str | None:
            return headers.get("lambda-runtime-" + name)

        deadline = header("deadline-ms") or ""
        if not (deadline.isascii() and deadline.isdigit()):
            raise RuntimeApiError(f"invocation without a deadline: {deadline!r}")
        self.request_id = header("aws-request-id") or ""
        if not self.request_id:
            raise RuntimeApiError("invocation without a request id")
        self.body = body
        self.content_type = headers.get("content-type", "application/json")
        self.deadline_ms = int(deadline)
        self.function_arn = header("invoked-function-arn")
        self.trace_id = header("trace-id")
        self.client_context = header("client-context")
        self.cognito_identity = header("cognito-identity")
        self.tenant_id = header("aws-tenant-id")
        self.invocation_id = header("invocation-id")


class RuntimeApi:
    """The client's side of the Runtime API."""

    def __init__(self, address: str) -> None:
        """`address` is the value of ``AWS_LAMBDA_RUNTIME_API``: host and port, perhaps with a path behind them."""
        self._host, _, path = address.partition("/")
        self._prefix = ("/" + path.rstrip("/") if path else "") + _VERSION
        self._socket: socket.socket | None = None

    def next_invocation(self) -> Invocation:
        """Waits for an invocation, for as long as it takes.

        Raises:
            RuntimeApiError: The Runtime API gave none; there is no sense in going on.
        """
        answer = self._request("GET", "/invocation/next", [], b"")
        if answer.status != 200:
            raise RuntimeApiError(f"no next invocation: status {answer.status}, {answer.body[:500]!r}")
        if not answer.keep_alive:
            self._close()
        return Invocation(answer.headers, answer.body)

    def respond(self, invocation: Invocation) -> ResponseStream:
        """The response to `invocation`, of which nothing is sent yet."""
        return ResponseStream(self, invocation)

    def post_init_error(self, error: BaseException) -> None:
        """Tells that the function could not be made ready; the process must then exit.

        Raises:
            RuntimeApiError: The Runtime API did not take it.
        """
        self._post_error("/init/error", errors.report(error), [])

    def post_error(self, invocation: Invocation, error: BaseException) -> None:
        """Tells that the handler failed. Only legal before the response has begun.

        Raises:
            RuntimeApiError: The Runtime API did not take it.
        """
        headers = [(_XRAY_CAUSE, errors.xray_cause(error)), *_ids(invocation)]
        report = errors.report(error, invocation.request_id)
        self._post_error(f"/invocation/{invocation.request_id}/error", report, headers)

    def _post_error(self, target: str, report: dict[str, Any], headers: list[tuple[str, str]]) -> None:
        headers = [("Content-Type", "application/json"), (_ERROR_TYPE, _ascii(report["errorType"])), *headers]
        answer = self._request("POST", target, headers, json.dumps(report).encode())
        self._close()
        if answer.status >= 400:
            raise RuntimeApiError(f"error not accepted: status {answer.status}, {answer.body[:500]!r}")

    def _request(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> wire.ResponseParser:
        if method == "POST":
            headers = [*headers, ("Content-Length", str(len(body)))]
        self._send(self._begin(method, target, headers) + body)
        return self._receive()

    def _begin(self, method: str, target: str, headers: list[tuple[str, str]]) -> bytes:
        """The head of a request. A connection that the other side has ended is not used for it."""
        if self._socket is not None and _ended(self._socket):
            self._close()
        return wire.request_head(method, self._prefix + target, self._host, headers)

    def _send(self, data: bytes) -> None:
        """Sends all of `data`. This blocks until the other side has room: that is the backpressure."""
        try:
            if self._socket is None:
                host, _, port = self._host.rpartition(":")
                self._socket = socket.create_connection((host.strip("[]"), int(port)))
                # A chunk goes out when it is made, not when the one before was acknowledged.
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(data)
        except (OSError, ValueError) as error:  # ValueError: the port is not a number
            self._close()
            raise RuntimeApiError(f"Runtime API at {self._host}: {error}") from error

    def _receive(self) -> wire.ResponseParser:
        assert self._socket is not None
        answer = wire.ResponseParser()
        try:
            while not answer.feed(self._socket.recv(_RECEIVE_SIZE)):
                pass
        except (OSError, wire.WireError) as error:
            self._close()
            raise RuntimeApiError(f"Runtime API at {self._host}: {error}") from error
        return answer

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class ResponseStream:
    """The response to one invocation: a head, chunks, an end.

    Nothing is sent before the first `write`, so that until then a failure can still be reported as one.

    Attributes:
        started: Whether anything was sent.
        ended: Whether nothing more can be sent.
    """

    def __init__(self, api: RuntimeApi, invocation: Invocation) -> None:
        self.started = False
        self.ended = False
        self._api = api
        self._invocation = invocation
        self._content_type = "application/octet-stream"
        self._metadata: bytes | None = None

    def prepare(self, content_type: str, metadata: bytes | None) -> None:
        """Sets what is sent before the first byte of the body."""
        self._content_type = content_type
        self._metadata = metadata

    def write(self, data: bytes) -> None:
        """Sends `data` as one chunk; the first call sends the head too. Empty `data` sends no more than that.

        Raises:
            RuntimeApiError: The connection broke.
        """
        if not self.started:
            self._start()
        if data:
            self._send(wire.chunk(data))

    def end(self) -> None:
        """Ends a response that is whole.

        Raises:
            RuntimeApiError: The connection broke, or the Runtime API did not take the response.
        """
        if not self.started:
            self._start()
        self._finish(wire.LAST_CHUNK)

    def fail(self, error: BaseException) -> None:
        """Reports `error`: as an error while nothing was sent, in trailers afterwards; not at all once ended.

        Raises:
            RuntimeApiError: The connection broke, or the Runtime API did not take the report.
        """
        if self.ended:
            return
        if not self.started:
            self.ended = True
            self._api.post_error(self._invocation, error)
            return
        report = errors.report(error, self._invocation.request_id)
        body = b2a_base64(json.dumps(report).encode(), newline=False).decode()
        self._finish(wire.last_chunk([(_ERROR_TYPE, _ascii(report["errorType"])), (_ERROR_BODY, body)]))

    def _start(self) -> None:
        self.started = True
        headers = [
            ("Content-Type", self._content_type),
            ("Lambda-Runtime-Function-Response-Mode", "streaming"),
            ("Transfer-Encoding", "chunked"),
            ("Trailer", f"{_ERROR_TYPE}, {_ERROR_BODY}"),
            *_ids(self._invocation),
        ]
        head = self._api._begin("POST", f"/invocation/{self._invocation.request_id}/response", headers)
        if self._metadata is not None:
            # The delimiter is a chunk of its own: an emulator takes the first chunk for the whole metadata.
            head += wire.chunk(self._metadata) + wire.chunk(wire.METADATA_DELIMITER)
        self._send(head)

    def _send(self, data: bytes) -> None:
        try:
            self._api._send(data)
        except RuntimeApiError:
            self.ended = True
            raise

    def _finish(self, data: bytes) -> None:
        self._send(data)
        self.ended = True
        answer = self._api._receive()
        self._api._close()
        if answer.status >= 400:
            raise RuntimeApiError(f"response not accepted: status {answer.status}, {answer.body[:500]!r}")


def _ids(invocation: Invocation) -> list[tuple[str, str]]:
    if invocation.invocation_id is None:
        return []
    return [("Lambda-Runtime-Invocation-Id", invocation.invocation_id)]


def _ended(connection: socket.socket) -> bool:
    """Whether the other side has ended an idle connection. Anything that can be read from it says so."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _ascii(text: str) -> str:
    """Python allows a class name that no header may hold."""
    return text.encode("unicode_escape").decode()
