"""A client for Lambda's Runtime API, and the invocations that it delivers.

Each connection serves one invocation: the event comes in and the response goes out.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import _socket  # rather than `socket`, for the cold start: see __init__.py
import os
import time

from . import errors, logs, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._types import Report

_VERSION = "/2018-06-01/runtime"
_XRAY_CAUSE = "Lambda-Runtime-Function-XRay-Error-Cause"
_ID = "{id}"  # placeholder for the request id in a cached head
_RECEIVE_SIZE = 64 * 1024
_TCP_INFO: int | None = getattr(_socket, "TCP_INFO", None)  # Linux only
_ESTABLISHED = b"\x01"
# Characters that a path need not escape (RFC 3986, section 2.3).
_UNRESERVED = frozenset("-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class RuntimeApiError(Exception):
    """The Runtime API cannot be reached, closed the connection, or rejected a request."""


class Invocation:
    """One event, and what Lambda says about it.

    Attributes:
        request_id: Id of the invocation.
        body: The event as bytes.
        content_type: Content type of the event.
        deadline_ms: The Lambda timeout, in milliseconds since the epoch; 0 if unknown.
        function_arn: ARN of the invoked function.
        trace_id: AWS X-Ray tracing header, or None.
        client_context: JSON text of the client context, or None.
        cognito_identity: JSON text of the identity, or None.
        tenant_id: Tenant, or None.
        invocation_id: Id to send back with the response, or None.
        received_at: When the event arrived, by `time.monotonic`.
    """

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        """Read an answer to ``/next``: its headers by lower-case name, and its body.

        Raises:
            WireError: The request id is missing, or the deadline is not a number.
        """
        deadline = headers.get("lambda-runtime-deadline-ms", "0")
        if not (deadline.isascii() and deadline.isdigit() and len(deadline) <= 20):
            raise wire.WireError(f"invocation with an invalid deadline: {deadline[:80]!r}")
        self.request_id = headers.get("lambda-runtime-aws-request-id", "")
        if not self.request_id:
            raise wire.WireError("invocation without a request id")
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
        """The path of the invocation below the version of the Runtime API."""
        request_id = self.request_id
        if not (request_id.isascii() and request_id.replace("-", "").isalnum()):
            request_id = "".join(c if c in _UNRESERVED else f"%{ord(c):02X}" for c in request_id)
        return f"/invocation/{request_id}"


class Connection:
    """A connection to `host`. It is opened when something is sent, and reopened when it has ended.

    Attributes:
        host: Host and port.
        forked: Whether this process is a forked child, which must leave the connection to its parent.
    """

    forked = False

    def __init__(self, host: str) -> None:
        self.host = host
        self._socket: _socket.socket | None = None
        self._aborted = False
        # Given up for a socket when the function has used up all descriptors, so that it can still respond and report.
        self._spare: int | None = None
        self._reserve()

    @property
    def socket(self) -> _socket.socket:
        """The connected socket.

        Raises:
            OSError: It cannot be connected.
        """
        return self._socket or self._connect()

    def request(self, data: bytes) -> wire.ResponseParser:
        """Send a request, and wait for its answer without a timeout.

        Raises:
            RuntimeApiError: The connection broke.
        """
        self.close_if_stale()
        self.send(data)
        return self.receive()

    def send(self, *parts: bytes) -> None:
        """Send all of `parts`. This blocks until the other side has read enough: that is the backpressure.

        Raises:
            RuntimeApiError: The connection broke.
        """
        try:
            connection = self._socket or self._connect()
            if len(parts) == 1:
                connection.sendall(parts[0])
                return
            left = sum(map(len, parts)) - connection.sendmsg(parts)
            if left:  # a signal interrupted the call
                connection.sendall(b"".join(parts)[-left:])
        except OSError as error:
            raise self.fail(error) from None

    def receive(self) -> wire.ResponseParser:
        """Wait for an answer, without a timeout.

        Raises:
            RuntimeApiError: The connection broke, or the answer is not HTTP.
        """
        answer = wire.ResponseParser()
        try:
            while not answer.feed(self.socket.recv(_RECEIVE_SIZE)):
                pass
        except (OSError, wire.WireError) as error:
            raise self.fail(error) from None
        except BaseException:  # from a signal handler: the answer must not be taken for that of another request
            self.close()
            raise
        return answer

    def close_if_stale(self) -> None:
        """Close a connection that the other side has closed, so that the next request opens a new one."""
        if self._socket is not None and _closed_by_peer(self._socket):
            self.close()

    def abort(self) -> None:
        """Make a blocking send fail, and leave the request incomplete. Safe in a signal handler."""
        if self._socket is not None:
            self._aborted = True
            try:
                self._socket.shutdown(_socket.SHUT_RDWR)
            except OSError:
                self._socket.close()  # the other side disconnected first

    def fail(self, error: Exception) -> RuntimeApiError:
        """Close the connection, and return the exception to raise for `error`."""
        reason: object = "connection aborted by the deadline" if self._aborted else error
        if self.forked:
            reason = "a forked child of the function cannot respond, only its parent can"
        self.close()
        return RuntimeApiError(f"Runtime API at {self.host}: {reason}")

    def leave_to_parent(self) -> None:
        """Close this process's copy of the connection after a fork. Nothing more is sent by this process."""
        self.forked = True
        self.close()

    def close(self) -> None:
        """Close the connection, if it is open."""
        closing, self._socket, self._aborted = self._socket, None, False
        if closing is not None:
            try:
                closing.close()
            except OSError:
                return  # the function closed its descriptor
            self._reserve()

    def _connect(self) -> _socket.socket:
        if self.forked:
            raise OSError("forked")
        host, _, port = self.host.rpartition(":")
        if not port.isdecimal():
            raise OSError(f"invalid port: {port!r}")
        failure: OSError | None = None
        # As bytes: a name as text would import the codec for international names.
        for *kind, _, address in _socket.getaddrinfo(host.strip("[]").encode(), int(port), 0, _socket.SOCK_STREAM):
            connection = self._create(*kind)
            try:
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
                continue
            # Send each chunk immediately, not when the previous one was acknowledged.
            connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            self._socket = connection
            return connection
        assert failure is not None
        raise failure

    def _create(self, *kind: int) -> _socket.socket:
        """Create a socket, but not with a number that log text goes to, such as 1 after the function closed it."""
        rejected: list[_socket.socket] = []
        try:
            while True:
                try:
                    created = _socket.socket(*kind)
                except OSError:
                    if self._spare is None:
                        raise
                    os.close(self._spare)
                    self._spare = None
                    continue
                if not logs.is_destination(created.fileno()):
                    return created
                rejected.append(created)
        finally:
            for low in rejected:
                low.close()

    def _reserve(self) -> None:
        if self._spare is None:
            try:
                self._spare = os.open(os.devnull, os.O_RDONLY)
            except OSError:
                return  # none is left


class RuntimeApi:
    """A client of the Runtime API."""

    def __init__(self, address: str) -> None:
        """Prepare requests to `address`: host and port, optionally with a path, as in ``AWS_LAMBDA_RUNTIME_API``."""
        host, _, path = address.partition("/")
        self._prefix = ("/" + path.rstrip("/") if path else "") + _VERSION
        self.connection = Connection(host)
        self._next_head = self._head("GET", "/invocation/next")
        self._response_heads: dict[str, tuple[bytes, bytes]] = {}

    def next_invocation(self) -> Invocation:
        """Wait for an invocation, without a timeout.

        Raises:
            RuntimeApiError: The request failed. The process cannot recover from this.
        """
        answer = self.connection.request(self._next_head)
        if answer.status != 200:
            raise RuntimeApiError(
                f"the request for an invocation failed: status {answer.status}, {answer.body[:500]!r}"
            )
        if not answer.keep_alive:
            self.connection.close()
        try:
            return Invocation(answer.headers, answer.body)
        except wire.WireError as error:
            raise RuntimeApiError(str(error)) from None

    def restore_next(self) -> None:
        """Report that the process is ready for its snapshot, and return once it was restored.

        Raises:
            RuntimeApiError: The request failed.
        """
        answer = self.connection.request(self._head("GET", "/restore/next"))
        self.connection.close()  # a connection does not survive the snapshot
        if answer.status != 200:
            raise RuntimeApiError(f"the request for a restore failed: status {answer.status}, {answer.body[:500]!r}")

    def post_init_error(self, report: Report, error_type: str | None = None) -> None:
        """Report that Init failed. The process must exit afterwards.

        Args:
            report: The error, from `errors.report`.
            error_type: Lambda's name for the error, if it differs from the type in the report.

        Raises:
            RuntimeApiError: The Runtime API rejected the report.
        """
        self._post_error("/init/error", report, error_type)

    def post_restore_error(self, report: Report) -> None:
        """Report that a hook failed after the restore from a snapshot. The process must exit afterwards.

        Raises:
            RuntimeApiError: The Runtime API rejected the report.
        """
        self._post_error("/restore/error", report, "Runtime.AfterRestoreError")

    def post_error(self, invocation: Invocation, report: Report, xray_cause: str | None) -> None:
        """Report that the handler failed. Only allowed before the response has started.

        Raises:
            RuntimeApiError: The Runtime API rejected the report.
        """
        causes = [(_XRAY_CAUSE, xray_cause)] if xray_cause is not None else []
        self._post_error(f"{invocation.path}/error", report, None, *causes, *_ids(invocation))

    def _post_error(self, target: str, report: Report, error_type: str | None, *headers: tuple[str, str]) -> None:
        body = wire.plain_json(report).encode()
        head = self._head(
            "POST",
            target,
            ("Content-Type", "application/json"),
            errors.type_header(error_type or report["errorType"]),
            *headers,
            ("Content-Length", str(len(body))),
        )
        answer = self.connection.request(head + body)
        self.connection.close()
        if not self._error_accepted(target, answer.status):
            raise RuntimeApiError(
                f"the Runtime API rejected the error report: status {answer.status}, {answer.body[:500]!r}"
            )

    def _error_accepted(self, target: str, status: int) -> bool:
        """Whether the answer to an error report is a success. A subclass may decide by `target`."""
        return status < 400

    def _head(self, method: str, target: str, *headers: tuple[str, str]) -> bytes:
        return wire.request_head(method, self._prefix + target, self.connection.host, headers)

    def response_head(self, invocation: Invocation, content_type: str) -> bytes:
        """Encode the head of the request that carries a response."""
        cached = self._response_heads.get(content_type)
        if cached is None:
            head = self._head(
                "POST",
                f"{_ID}/response",
                ("Content-Type", content_type),
                ("Lambda-Runtime-Function-Response-Mode", "streaming"),
                ("Transfer-Encoding", "chunked"),
                ("Trailer", f"{errors.TYPE_HEADER}, {errors.BODY_TRAILER}"),
            )
            before, _, after = head.partition(_ID.encode())
            cached = self._response_heads[content_type] = before, after.removesuffix(b"\r\n")
        before, after = cached
        ids = "".join([f"{name}: {value}\r\n" for name, value in _ids(invocation)]).encode("latin-1")
        return b"%b%b%b%b\r\n" % (before, invocation.path.encode(), after, ids)


def _ids(invocation: Invocation) -> list[tuple[str, str]]:
    if invocation.invocation_id is None:
        return []
    return [("Lambda-Runtime-Invocation-Id", invocation.invocation_id)]


def _closed_by_peer(connection: _socket.socket) -> bool:
    """Whether the other side has closed an idle connection."""
    if _TCP_INFO is not None:
        try:
            return connection.getsockopt(_socket.IPPROTO_TCP, _TCP_INFO, 1) != _ESTABLISHED
        except OSError:  # the function closed its descriptor
            return True
    # An idle connection is readable only once it was closed. This takes longer than asking for its state.
    try:
        connection.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
