"""Lambda's Runtime API over a socket. One connection carries one invocation: its event in, its response out.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import json
import time
from binascii import b2a_base64

from . import errors, wire
from .connection import Connection, RuntimeApiError
from .deadline import HANDLER, SENDING
from .response import item_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .deadline import Deadline
    from .wire import Invocation

_VERSION = "/2018-06-01/runtime"
_ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
_ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
_XRAY_CAUSE = "Lambda-Runtime-Function-XRay-Error-Cause"
# From this size on, copying a chunk into one piece with its frame takes longer than sending it in three.
_SCATTER_SIZE = 16 * 1024
# Go's HTTP server, of which Lambda's emulator is made, takes no more trailers than its buffer holds.
_TRAILERS_LIMIT = 4096  # bytes
_TYPE_LIMIT = 128  # characters of an error's type among them
_ID = "{id}"  # stands for the request id in a head that is kept


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
            return wire.Invocation(answer.headers, answer.body)
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
            (_ERROR_TYPE, _ascii(error_type or report["errorType"])),
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
                ("Trailer", f"{_ERROR_TYPE}, {_ERROR_BODY}"),
            )
            before, _, after = head.partition(_ID.encode())
            kept = self._response_heads[content_type] = before, after.removesuffix(b"\r\n")
        before, after = kept
        ids = "".join([f"{name}: {value}\r\n" for name, value in _ids(invocation)]).encode("latin-1")
        return b"%b%b%b%b\r\n" % (before, invocation.path.encode(), after, ids)


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
        self._connection = api.connection
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
        message = wire.chunk(data) if size else b""
        if not self.started:
            message = self._head() + message
        elif not size:
            return
        try:
            self.started = True
            self._connection.send(message)
        except BaseException:
            self._break_off()
            raise
        if size and payload:
            if not self.chunks_sent:
                self.first_byte_at = time.monotonic()
            self.chunks_sent += 1
            self.bytes_sent += size

    def write_rest(self, items: Iterator[Any], encode: Callable[[Any], bytes], deadline: Deadline) -> None:
        """Sends each of `items` as `write` would, once that has sent a part of the payload, if nobody else writes.

        Between two small chunks Python takes as long as the system takes to send one. So all that is to be done is in
        one place here, on local variables.

        Args:
            items: What `encode` takes.
            encode: Makes bytes of an item.
            deadline: Is told what goes on.

        Raises:
            RuntimeApiError: The connection broke.
            StreamDeadlineExceeded: The time was up while something was sent.
            BaseException: Whatever `items` and `encode` raise.
        """
        # Bytes that are ready save a call for each chunk; None is the type of no item.
        ready = bytes if encode is item_bytes else None
        socket = self._connection.socket
        sendall, sendmsg = socket.sendall, socket.sendmsg
        chunks = total = 0
        try:
            for item in items:
                data = item if type(item) is ready else encode(item)
                size = len(data)
                deadline.doing = SENDING
                try:
                    if size >= _SCATTER_SIZE:
                        frame = b"%x\r\n" % size
                        left = len(frame) + size + 2 - sendmsg((frame, data, b"\r\n"))
                        if left:  # a signal came in between
                            sendall(wire.chunk(data)[-left:])
                    elif size:
                        sendall(b"%x\r\n%b\r\n" % (size, data))
                except OSError as error:
                    self.ended = self.failed = True
                    raise self._connection.broken(error) from None
                except BaseException:
                    self._break_off()
                    raise
                if size:
                    chunks += 1
                    total += size
                if deadline.passed:
                    raise deadline.exceeded()
                deadline.doing = HANDLER
        finally:
            self.chunks_sent += chunks
            self.bytes_sent += total

    def end(self) -> None:
        """Ends a response that is whole.

        Raises:
            RuntimeApiError: The connection broke, or the Runtime API did not take the response.
        """
        self._finish(wire.LAST_CHUNK if self.started else self._head() + wire.LAST_CHUNK)

    def fail(self, error: BaseException, report: dict[str, Any]) -> None:
        """Reports `error`, of which `report` was made: as an error while nothing was sent, in trailers afterwards.

        Raises:
            RuntimeApiError: The connection broke, or the Runtime API did not take the report.
        """
        self.failed = True
        if not self.started:
            self.ended = True
            self._api.post_error(self._invocation, report, errors.xray_cause(error, report))
            return
        self._finish(_trailers(report))

    def _break_off(self) -> None:
        # Beside a broken connection it may be a handler of signals that raised: nobody knows how much is out then.
        self.ended = self.failed = True
        self._connection.close()

    def _head(self) -> bytes:
        self._connection.drop_ended()
        head = self._api.response_head(self._invocation, self._content_type)
        if self._metadata is not None:
            # The delimiter is a chunk of its own: an emulator takes the first chunk for the whole metadata.
            head += wire.chunk(self._metadata) + wire.chunk(wire.METADATA_DELIMITER)
        return head

    def _finish(self, data: bytes) -> None:
        self.started = self.ended = True
        try:
            self._connection.send(data)
            answer = self._connection.receive()
        except BaseException:
            self._break_off()
            raise
        self._connection.close()
        if answer.status >= 400:
            self.failed = True
            raise RuntimeApiError(f"response not accepted: status {answer.status}, {answer.body[:500]!r}")


def _trailers(report: dict[str, Any]) -> bytes:
    """The end of a response that failed. What is too much of the report is left out; the log has all of it."""
    stack, message = report["stackTrace"], report["errorMessage"]
    kind = report["errorType"][:_TYPE_LIMIT]
    while True:
        shown = {**report, "errorType": kind, "errorMessage": message, "stackTrace": stack}
        body = b2a_base64(json.dumps(shown).encode(), newline=False).decode()
        end = wire.last_chunk([(_ERROR_TYPE, _ascii(kind)), (_ERROR_BODY, body)])
        if len(end) <= _TRAILERS_LIMIT or not (stack or message):
            return end
        if stack:  # whose last entries say most
            stack = stack[len(stack) // 2 + 1 :]
        else:
            message = message[: len(message) // 2]


def _ids(invocation: Invocation) -> list[tuple[str, str]]:
    if invocation.invocation_id is None:
        return []
    return [("Lambda-Runtime-Invocation-Id", invocation.invocation_id)]


def _ascii(text: str) -> str:
    """Python allows a class name that no header may hold."""
    return text.encode("unicode_escape").decode()
