"""Lambda's Runtime API over a socket, which is made when something is to be sent.

One connection carries one invocation: its event in, its response out.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

# The C module: importing `socket` around it takes longer than importing this package.
import _socket
import json

from . import errors, wire
from .context import Invocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VERSION = "/2018-06-01/runtime"
_XRAY_CAUSE = "Lambda-Runtime-Function-XRay-Error-Cause"
_ID = "{id}"  # stands for the request id in a head that is kept
_RECEIVE_SIZE = 64 * 1024
_TCP_INFO: int | None = getattr(_socket, "TCP_INFO", None)  # Linux has it
_ESTABLISHED = b"\x01"


class RuntimeApiError(Exception):
    """The Runtime API cannot be reached, broke off, or refused a request."""


class Connection:
    """A connection to `host`, which is made anew when it has ended.

    Attributes:
        host: Host and port.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._socket: _socket.socket | None = None
        self._broken_off = False

    @property
    def socket(self) -> _socket.socket:
        """The socket, which is connected.

        Raises:
            OSError: It cannot be connected.
        """
        return self._socket or self._connect()

    def request(self, data: bytes) -> wire.ResponseParser:
        """Sends a request and waits for its answer, for as long as it takes.

        Raises:
            RuntimeApiError: The connection broke.
        """
        self.drop_ended()
        self.send(data)
        return self.receive()

    def send(self, data: bytes) -> None:
        """Sends all of `data`. This blocks until the other side has room: that is the backpressure.

        Raises:
            RuntimeApiError: The connection broke.
        """
        try:
            (self._socket or self._connect()).sendall(data)
        except OSError as error:
            raise self.broken(error) from None

    def receive(self) -> wire.ResponseParser:
        """Waits for an answer, for as long as it takes.

        Raises:
            RuntimeApiError: The connection broke, or what came is no answer.
        """
        answer = wire.ResponseParser()
        try:
            while not answer.feed(self.socket.recv(_RECEIVE_SIZE)):
                pass
        except (OSError, wire.WireError) as error:
            raise self.broken(error) from None
        except BaseException:  # a signal's: what comes must not be taken for the answer to another request
            self.close()
            raise
        return answer

    def drop_ended(self) -> None:
        """A connection that the other side has ended is not used for what comes next."""
        if self._socket is not None and _ended(self._socket):
            self.close()

    def break_off(self) -> None:
        """Makes a send that blocks fail, and what was sent an incomplete request. Safe in a signal's handler."""
        if self._socket is not None:
            self._broken_off = True
            try:
                self._socket.shutdown(_socket.SHUT_RDWR)
            except OSError:
                self._socket.close()  # the other side was first

    def broken(self, error: Exception) -> RuntimeApiError:
        """Ends the connection; gives what to raise for `error`."""
        reason = "broken off, since the time was up" if self._broken_off else error
        self.close()
        return RuntimeApiError(f"Runtime API at {self.host}: {reason}")

    def close(self) -> None:
        """Ends the connection, if there is one."""
        ended, self._socket, self._broken_off = self._socket, None, False
        if ended is not None:
            try:
                ended.close()
            except OSError:
                return  # the function has closed its descriptor

    def _connect(self) -> _socket.socket:
        host, _, port = self.host.rpartition(":")
        if not port.isdecimal():
            raise OSError(f"not a port: {port!r}")
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


class RuntimeApi:
    """The client's side of the Runtime API."""

    def __init__(self, address: str) -> None:
        """`address` is the value of ``AWS_LAMBDA_RUNTIME_API``: host and port, perhaps with a path behind them."""
        host, _, path = address.partition("/")
        self._prefix = ("/" + path.rstrip("/") if path else "") + _VERSION
        self.connection = Connection(host)
        self._next_head = self._head("GET", "/invocation/next")
        self._response_heads: dict[str, tuple[bytes, bytes]] = {}

    def next_invocation(self) -> Invocation:
        """Waits for an invocation, for as long as it takes.

        Raises:
            RuntimeApiError: The Runtime API gave none; there is no sense in going on.
        """
        answer = self.connection.request(self._next_head)
        if answer.status != 200:
            raise RuntimeApiError(f"no next invocation: status {answer.status}, {answer.body[:500]!r}")
        if not answer.keep_alive:
            self.connection.close()
        try:
            return Invocation(answer.headers, answer.body)
        except wire.WireError as error:
            raise RuntimeApiError(str(error)) from None

    def restore_next(self) -> None:
        """Tells that the process is ready for its snapshot; comes back when it was restored from it.

        Raises:
            RuntimeApiError: The Runtime API refused.
        """
        answer = self.connection.request(self._head("GET", "/restore/next"))
        self.connection.close()  # a connection does not outlive the machine it was made on
        if answer.status != 200:
            raise RuntimeApiError(f"no restore: status {answer.status}, {answer.body[:500]!r}")

    def post_init_error(self, report: dict[str, Any], error_type: str | None = None) -> None:
        """Tells that the function could not be made ready; the process must then exit.

        Args:
            report: What `errors.report` made of the error.
            error_type: What Lambda calls it, if that is not the type in the report.

        Raises:
            RuntimeApiError: The Runtime API did not take it.
        """
        self._post_error("/init/error", report, error_type)

    def post_restore_error(self, report: dict[str, Any]) -> None:
        """Tells that a hook failed after the restore from a snapshot; the process must then exit.

        Raises:
            RuntimeApiError: The Runtime API did not take it.
        """
        self._post_error("/restore/error", report, "Runtime.AfterRestoreError")

    def post_error(self, invocation: Invocation, report: dict[str, Any], xray_cause: str | None) -> None:
        """Tells that the handler failed. Only legal before the response has begun.

        Raises:
            RuntimeApiError: The Runtime API did not take it.
        """
        causes = [(_XRAY_CAUSE, xray_cause)] if xray_cause is not None else []
        self._post_error(f"{invocation.path}/error", report, None, *causes, *_ids(invocation))

    def _post_error(
        self, target: str, report: dict[str, Any], error_type: str | None, *headers: tuple[str, str]
    ) -> None:
        body = json.dumps(report).encode()
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
            raise RuntimeApiError(f"error not accepted: status {answer.status}, {answer.body[:500]!r}")

    def _error_accepted(self, target: str, status: int) -> bool:
        """Whether the answer to a report at `target`, which a subclass may look at, lets the process go on."""
        return status < 400

    def _head(self, method: str, target: str, *headers: tuple[str, str]) -> bytes:
        return wire.request_head(method, self._prefix + target, self.connection.host, headers)

    def response_head(self, invocation: Invocation, content_type: str) -> bytes:
        """The head of the request that carries a response."""
        kept = self._response_heads.get(content_type)
        if kept is None:
            head = self._head(
                "POST",
                f"{_ID}/response",
                ("Content-Type", content_type),
                ("Lambda-Runtime-Function-Response-Mode", "streaming"),
                ("Transfer-Encoding", "chunked"),
                ("Trailer", f"{errors.TYPE_HEADER}, {errors.BODY_TRAILER}"),
            )
            before, _, after = head.partition(_ID.encode())
            kept = self._response_heads[content_type] = before, after.removesuffix(b"\r\n")
        before, after = kept
        ids = "".join([f"{name}: {value}\r\n" for name, value in _ids(invocation)]).encode("latin-1")
        return b"%b%b%b%b\r\n" % (before, invocation.path.encode(), after, ids)


def _ids(invocation: Invocation) -> list[tuple[str, str]]:
    if invocation.invocation_id is None:
        return []
    return [("Lambda-Runtime-Invocation-Id", invocation.invocation_id)]


def _ended(connection: _socket.socket) -> bool:
    """Whether the other side has ended an idle connection."""
    if _TCP_INFO is not None:
        try:
            return connection.getsockopt(_socket.IPPROTO_TCP, _TCP_INFO, 1) != _ESTABLISHED
        except OSError:  # the function has closed its descriptor
            return True
    # Anything that can be read from it says so, which takes longer to find out.
    try:
        connection.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
