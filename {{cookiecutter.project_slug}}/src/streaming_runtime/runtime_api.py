"""Lambda's Runtime API over a socket. One connection carries one invocation: its event in, its response out.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

# The C module: importing `socket` around it takes longer than importing this package.
import _socket
import json
import time
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
# From this size on, copying a chunk into one piece with its frame takes longer than sending it in three.
_SCATTER_SIZE = 16 * 1024
_TCP_INFO: int | None = getattr(_socket, "TCP_INFO", None)  # Linux has it
_ESTABLISHED = b"\x01"
_ID = "{id}"  # stands for the request id in a head that is kept
# What needs no escape in a path (RFC 3986, section 2.3).
_UNRESERVED = frozenset("-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class RuntimeApiError(Exception):
    """The Runtime API cannot be reached, broke off, or refused a request."""


class Invocation:
    """One event and what Lambda says about it.

    Attributes:
        request_id: Id of the invocation.
        body: The event as it came.
        content_type: Of the event.
        deadline_ms: When Lambda ends the invocation, in milliseconds since the epoch; 0 if it did not say.
        function_arn: What was invoked.
        trace_id: AWS X-Ray tracing header, or None.
        client_context: JSON text of the client context, or None.
        cognito_identity: JSON text of the identity, or None.
        tenant_id: Tenant, or None.
        invocation_id: To be handed back with the response, or None.
        received_at: When the event came, by `time.monotonic`.
    """

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        deadline = headers.get("lambda-runtime-deadline-ms", "0")
        if not (deadline.isascii() and deadline.isdigit() and len(deadline) <= 20):
            raise RuntimeApiError(f"invocation with a deadline that is no number: {deadline[:80]!r}")
        self.request_id = headers.get("lambda-runtime-aws-request-id", "")
        if not self.request_id:
            raise RuntimeApiError("invocation without a request id")
        self.body = body
        self.content_type = headers.get("content-type", "application/json")
        self.deadline_ms = int(deadline)
        self.function_arn = headers.get("lambda-runtime-invoked-function-arn")
        self.trace_id = headers.get("lambda-runtime-trace-id") or None
        self.client_context = headers.get("lambda-runtime-client-context")
        self.cognito_identity = headers.get("lambda-runtime-cognito-identity")
        self.tenant_id = headers.get("lambda-runtime-aws-tenant-id") or None
        self.invocation_id = headers.get("lambda-runtime-invocation-id") or None
        self.received_at = time.monotonic()

    @property
    def path(self) -> str:
        """Where answers to the invocation are posted, below the version of the Runtime API."""
        request_id = self.request_id
        if not (request_id.isascii() and request_id.replace("-", "").isalnum()):
            request_id = "".join(c if c in _UNRESERVED else f"%{ord(c):02X}" for c in request_id)
        return f"/invocation/{request_id}"


class RuntimeApi:
    """The client's side of the Runtime API."""

    def __init__(self, address: str) -> None:
        """`address` is the value of ``AWS_LAMBDA_RUNTIME_API``: host and port, perhaps with a path behind them."""
        self._host, _, path = address.partition("/")
        self._prefix = ("/" + path.rstrip("/") if path else "") + _VERSION
        self._next_head = wire.request_head("GET", self._prefix + "/invocation/next", self._host, [])
        self._response_heads: dict[str, tuple[bytes, bytes]] = {}
        self._socket: _socket.socket | None = None
        self._broken_off = False

    def next_invocation(self) -> Invocation:
        """Waits for an invocation, for as long as it takes.

        Raises:
            RuntimeApiError: The Runtime API gave none; there is no sense in going on.
        """
        answer = self._request(self._next_head)
        if answer.status != 200:
            raise RuntimeApiError(f"no next invocation: status {answer.status}, {answer.body[:500]!r}")
        if not answer.keep_alive:
            self._close()
        return Invocation(answer.headers, answer.body)

    def respond(self, invocation: Invocation) -> ResponseStream:
        """The response to `invocation`, of which nothing is sent yet."""
        return ResponseStream(self, invocation)

    def restore_next(self) -> None:
        """Tells that the process is ready for its snapshot; comes back when it was restored from it.

        Raises:
            RuntimeApiError: The Runtime API refused.
        """
        answer = self._request(wire.request_head("GET", self._prefix + "/restore/next", self._host, []))
        self._close()  # a connection does not outlive the machine it was made on
        if answer.status != 200:
            raise RuntimeApiError(f"no restore: status {answer.status}, {answer.body[:500]!r}")

    def post_init_error(self, error: BaseException, error_type: str | None = None) -> None:
        """Tells that the function could not be made ready; the process must then exit.

        Raises:
            RuntimeApiError: The Runtime API did not take it.
        """
        self._post_error("/init/error", errors.report(error), error_type, [])

    def post_restore_error(self, error: BaseException) -> None:
        """Tells that a hook failed after the restore from a snapshot; the process must then exit.

        Raises:
            RuntimeApiError: The Runtime API did not take it.
        """
        self._post_error("/restore/error", errors.report(error), "Runtime.AfterRestoreError", [])

    def post_error(self, invocation: Invocation, error: BaseException) -> None:
        """Tells that the handler failed. Only legal before the response has begun.

        Raises:
            RuntimeApiError: The Runtime API did not take it.
        """
        cause = errors.xray_cause(error)
        headers = [*([(_XRAY_CAUSE, cause)] if cause is not None else []), *_ids(invocation)]
        report = errors.report(error, invocation.request_id)
        self._post_error(f"{invocation.path}/error", report, None, headers)

    def break_off(self) -> None:
        """Makes a send that blocks fail, and what was sent an incomplete response. Safe in a signal's handler."""
        if self._socket is not None:
            self._broken_off = True
            try:
                self._socket.shutdown(_socket.SHUT_RDWR)
            except OSError:
                self._socket.close()  # the other side was first

    def _post_error(
        self, target: str, report: dict[str, Any], error_type: str | None, headers: list[tuple[str, str]]
    ) -> None:
        body = json.dumps(report).encode()
        headers = [
            ("Content-Type", "application/json"),
            (_ERROR_TYPE, _ascii(error_type or report["errorType"])),
            *headers,
            ("Content-Length", str(len(body))),
        ]
        answer = self._request(wire.request_head("POST", self._prefix + target, self._host, headers) + body)
        self._close()
        if not self._error_accepted(target, answer.status):
            raise RuntimeApiError(f"error not accepted: status {answer.status}, {answer.body[:500]!r}")

    def _error_accepted(self, _target: str, status: int) -> bool:
        return status < 400

    def _response_head(self, invocation: Invocation, content_type: str) -> bytes:
        kept = self._response_heads.get(content_type)
        if kept is None:
            headers = [
                ("Content-Type", content_type),
                ("Lambda-Runtime-Function-Response-Mode", "streaming"),
                ("Transfer-Encoding", "chunked"),
                ("Trailer", f"{_ERROR_TYPE}, {_ERROR_BODY}"),
            ]
            head = wire.request_head("POST", f"{self._prefix}{_ID}/response", self._host, headers)
            before, _, after = head.partition(_ID.encode())
            kept = self._response_heads[content_type] = before, after.removesuffix(b"\r\n")
        before, after = kept
        ids = "".join([f"{name}: {value}\r\n" for name, value in _ids(invocation)])
        return b"%b%b%b%b\r\n" % (before, invocation.path.encode(), after, ids.encode("latin-1"))

    def _request(self, request: bytes) -> wire.ResponseParser:
        self._drop_ended()
        self._send(request)
        return self._receive()

    def _drop_ended(self) -> None:
        """A connection that the other side has ended is not used for what comes next."""
        if self._socket is not None and _ended(self._socket):
            self._close()

    def _send(self, data: bytes) -> None:
        """Sends all of `data`. This blocks until the other side has room: that is the backpressure."""
        try:
            (self._socket or self._connect()).sendall(data)
        except (OSError, ValueError) as error:  # ValueError: the port is not a number
            raise self._broken(error) from None

    def _send_chunk(self, data: bytes, size: int) -> None:
        """Sends a large chunk without a copy of it."""
        frame = b"%x\r\n" % size
        try:
            left = len(frame) + size + 2 - self._socket.sendmsg((frame, data, b"\r\n"))  # type: ignore[union-attr]
            if left:  # a signal came in between
                self._send(wire.chunk(data)[-left:])
        except OSError as error:
            raise self._broken(error) from None

    def _connect(self) -> _socket.socket:
        host, _, port = self._host.rpartition(":")
        failure: OSError | None = None
        # As bytes, since a name as text would bring in the codec for international ones.
        for *kind, _, address in _socket.getaddrinfo(host.strip("[]").encode(), int(port), 0, _socket.SOCK_STREAM):
            connection = _socket.socket(*kind)
            try:
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
                continue
            # A chunk goes out when it is made, not when the one before was acknowledged.
            connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            self._socket = connection
            return connection
        assert failure is not None
        raise failure

    def _receive(self) -> wire.ResponseParser:
        assert self._socket is not None
        answer = wire.ResponseParser()
        try:
            while not answer.feed(self._socket.recv(_RECEIVE_SIZE)):
                pass
        except (OSError, wire.WireError) as error:
            raise self._broken(error) from None
        return answer

    def _broken(self, error: Exception) -> RuntimeApiError:
        self._close()
        reason = "broken off, since the time was up" if self._broken_off else error
        self._broken_off = False
        return RuntimeApiError(f"Runtime API at {self._host}: {reason}")

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
        failed: Whether the response broke off or was reported as failed.
        chunks_sent: Chunks of the payload so far.
        bytes_sent: Bytes of the payload so far.
        first_byte_at: When the first of them was sent, by `time.monotonic`; None before.
    """

    started = False
    ended = False
    failed = False
    chunks_sent = 0
    bytes_sent = 0
    first_byte_at: float | None = None
    _content_type = "application/octet-stream"
    _metadata: bytes | None = None

    def __init__(self, api: RuntimeApi, invocation: Invocation) -> None:
        self._api = api
        self._invocation = invocation

    def prepare(self, content_type: str, metadata: bytes | None) -> None:
        """Sets what is sent before the first byte of the body."""
        self._content_type = content_type
        self._metadata = metadata

    def write(self, data: bytes, payload: bool = True) -> None:
        """Sends `data` as one chunk; the first call sends the head too. Empty `data` sends no more than that.

        What is no `payload` is not counted.

        Raises:
            RuntimeApiError: The connection broke.
        """
        size = len(data)
        try:
            if not self.started:
                self._api._send(self._head() + (wire.chunk(data) if size else b""))
            elif size >= _SCATTER_SIZE:
                self._api._send_chunk(data, size)
            elif size:
                self._api._send(wire.chunk(data))
        except RuntimeApiError:
            self.ended = self.failed = True
            raise
        if size and payload:
            if not self.chunks_sent:
                self.first_byte_at = time.monotonic()
            self.chunks_sent += 1
            self.bytes_sent += size

    def end(self) -> None:
        """Ends a response that is whole.

        Raises:
            RuntimeApiError: The connection broke, or the Runtime API did not take the response.
        """
        self._finish(wire.LAST_CHUNK if self.started else self._head() + wire.LAST_CHUNK)

    def fail(self, error: BaseException) -> None:
        """Reports `error`, unless it has ended: as an error while nothing was sent, in trailers afterwards.

        Raises:
            RuntimeApiError: The connection broke, or the Runtime API did not take the report.
        """
        self.failed = True
        if not self.started:
            self.ended = True
            self._api.post_error(self._invocation, error)
            return
        report = errors.report(error, self._invocation.request_id)
        body = b2a_base64(json.dumps(report).encode(), newline=False).decode()
        self._finish(wire.last_chunk([(_ERROR_TYPE, _ascii(report["errorType"])), (_ERROR_BODY, body)]))

    def _head(self) -> bytes:
        self.started = True
        self._api._drop_ended()
        head = self._api._response_head(self._invocation, self._content_type)
        if self._metadata is not None:
            # The delimiter is a chunk of its own: an emulator takes the first chunk for the whole metadata.
            head += wire.chunk(self._metadata) + wire.chunk(wire.METADATA_DELIMITER)
        return head

    def _finish(self, data: bytes) -> None:
        self.ended = True
        try:
            self._api._send(data)
            answer = self._api._receive()
        except RuntimeApiError:
            self.failed = True
            raise
        self._api._close()
        if answer.status >= 400:
            self.failed = True
            raise RuntimeApiError(f"response not accepted: status {answer.status}, {answer.body[:500]!r}")


def _ids(invocation: Invocation) -> list[tuple[str, str]]:
    if invocation.invocation_id is None:
        return []
    return [("Lambda-Runtime-Invocation-Id", invocation.invocation_id)]


def _ended(connection: _socket.socket) -> bool:
    """Whether the other side has ended an idle connection."""
    if _TCP_INFO is not None:
        return connection.getsockopt(_socket.IPPROTO_TCP, _TCP_INFO, 1) != _ESTABLISHED
    # Anything that can be read from it says so, which takes longer to find out.
    try:
        connection.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _ascii(text: str) -> str:
    """Python allows a class name that no header may hold."""
    return text.encode("unicode_escape").decode()
