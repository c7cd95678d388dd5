"""The response to one invocation on the wire: a head, chunks, and an end or error trailers."""

from __future__ import annotations

import time

from . import errors, wire
from .deadline import HANDLER, SENDING
from .responses import StreamingResponse
from .runtime_api import RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ._types import Guard, Report
    from .deadline import Deadline
    from .runtime_api import Invocation, RuntimeApi

# From this size on, copying a chunk and its frame into one buffer takes longer than sending them as three buffers.
_SCATTER_SIZE = 16 * 1024


class ResponseStream:
    """The response to one invocation: a head, chunks, an end.

    Nothing is sent before the first `write`. Until then, a failure can be reported as an error of the invocation.

    Attributes:
        started: Whether anything was sent.
        ended: Whether nothing more can be sent.
        failed: Whether the response was aborted or reported as failed.
        chunks_sent: Chunks of the payload so far.
        bytes_sent: Bytes of the payload so far.
        first_byte_at: When the first chunk of the payload was sent, by `time.monotonic`; None before.
    """

    started = False
    ended = False
    failed = False
    chunks_sent = 0
    bytes_sent = 0
    first_byte_at: float | None = None
    _content_type = wire.OCTET_STREAM
    _metadata: bytes | None = None
    _terminated = False

    def __init__(self, api: RuntimeApi, invocation: Invocation) -> None:
        self._api = api
        self._connection = api.connection
        self._invocation = invocation

    @property
    def forked(self) -> bool:
        """Whether this process is a forked child, which must leave the response to its parent."""
        return self._connection.forked

    @property
    def status_code(self) -> int:
        """HTTP status of the response: 200 for a raw stream."""
        status: int = 200 if self._metadata is None else wire.from_json(self._metadata)["statusCode"]
        return status

    def prepare(self, content_type: str, metadata: bytes | None) -> None:
        """Set what is sent before the body."""
        self._content_type = content_type
        self._metadata = metadata

    def write(self, data: bytes, payload: bool = True, last: bool = False) -> None:
        """Send `data` as one chunk. The first call sends the head too; empty `data` sends nothing else.

        Args:
            data: The data.
            payload: Whether to count it as a chunk of the payload.
            last: Whether to send the end of the response with it. Only `end` may be called afterwards.

        Raises:
            RuntimeApiError: The connection broke.
        """
        size = len(data)
        before = b"" if self.started else self._head()
        after = wire.LAST_CHUNK if last else b""
        self.started, self._terminated = True, last
        if size >= _SCATTER_SIZE:
            self._send(b"%b%x\r\n" % (before, size), data, b"\r\n" + after)
        elif size:
            self._send(b"%b%x\r\n%b\r\n%b" % (before, size, data, after))
        elif before or after:
            self._send(before + after)
        if size and payload:
            if not self.chunks_sent:
                self.first_byte_at = time.monotonic()
            self.chunks_sent += 1
            self.bytes_sent += size

    def write_rest(self, items: Iterator[Any], encode: Callable[[Any], bytes], deadline: Deadline) -> None:
        """Send each of `items` like `write`, but faster. Call this after the first chunk, when nothing else writes.

        Python needs as much time between two small chunks as the system needs to send one. Therefore all the work is
        done in one loop, with local variables, and the chunks are framed here instead of by `wire.chunk`.

        Args:
            items: The items to send.
            encode: Turns an item into bytes.
            deadline: The deadline of the invocation, which is told what the loop does.

        Raises:
            RuntimeApiError: The connection broke.
            StreamDeadlineExceeded: The deadline passed during a send.
            BaseException: Anything that `items` and `encode` raise.
        """
        # Items that are bytes already save a call for each chunk. No item has the type None.
        ready = bytes if encode is StreamingResponse.encode else None
        socket = self._connection.socket
        sendall, sendmsg = socket.sendall, socket.sendmsg
        chunks = total = 0
        try:
            for item in items:
                data = item if type(item) is ready else encode(item)
                size = len(data)
                deadline.activity = SENDING
                try:
                    if size >= _SCATTER_SIZE:
                        frame = b"%x\r\n" % size
                        left = len(frame) + size + 2 - sendmsg((frame, data, b"\r\n"))
                        if left:  # a signal interrupted the call
                            sendall(wire.chunk(data)[-left:])
                    elif size:
                        sendall(b"%x\r\n%b\r\n" % (size, data))
                except OSError as error:
                    self.ended = self.failed = True
                    raise self._connection.fail(error) from None
                except BaseException:
                    self._abort()
                    raise
                if size:
                    chunks += 1
                    total += size
                if deadline.passed:
                    raise deadline.error()
                deadline.activity = HANDLER
        finally:
            self.chunks_sent += chunks
            self.bytes_sent += total

    def sender(
        self, encode: Callable[[Any], bytes], deadline: Deadline, guard: Guard | None = None
    ) -> Callable[[Any], bool]:
        """Return a function that sends one item as `write_rest` does, and tells whether the deadline has passed.

        It is for items that do not come from a plain iterator. The call costs 3 % of the time for a small chunk.

        Args:
            encode: Turns an item into bytes.
            deadline: The deadline of the invocation, which is told what the function does.
            guard: Excludes what else writes to the stream, or None.

        Raises:
            RuntimeApiError: The connection broke. The function raises this.
            BaseException: Anything that `encode` raises. The function raises this too.
        """
        # Items that are bytes already save a call for each chunk. No item has the type None.
        ready = bytes if encode is StreamingResponse.encode else None
        connection = self._connection
        socket = connection.socket
        sendall, sendmsg = socket.sendall, socket.sendmsg

        def send(item: Any) -> bool:
            data = item if type(item) is ready else encode(item)
            size = len(data)
            deadline.activity = SENDING
            if guard is not None:
                guard.acquire()
            try:
                if size >= _SCATTER_SIZE:
                    frame = b"%x\r\n" % size
                    left = len(frame) + size + 2 - sendmsg((frame, data, b"\r\n"))
                    if left:  # a signal interrupted the call
                        sendall(wire.chunk(data)[-left:])
                elif size:
                    sendall(b"%x\r\n%b\r\n" % (size, data))
            except OSError as error:
                self.ended = self.failed = True
                raise connection.fail(error) from None
            except BaseException:
                self._abort()
                raise
            finally:
                if guard is not None:
                    guard.release()
            if size:
                self.chunks_sent += 1
                self.bytes_sent += size
            if deadline.passed:
                return True
            deadline.activity = HANDLER
            return False

        return send

    def end(self) -> None:
        """End a complete response.

        Raises:
            RuntimeApiError: The connection broke, or the Runtime API rejected the response.
        """
        if not self._terminated:
            self.write(b"", last=True)
        self._finish()

    def fail(self, error: BaseException, report: Report) -> None:
        """Report `error`: as an error of the invocation if nothing was sent yet, else in trailers.

        Args:
            error: The exception.
            report: Its report, from `errors.report`.

        Raises:
            RuntimeApiError: The connection broke, or the Runtime API rejected the report.
        """
        self.failed = True
        if not self.started:
            self.ended = True
            self._api.post_error(self._invocation, report, errors.xray_cause(error, report))
            return
        self._send(errors.trailers(report))
        self._finish()

    def _send(self, *parts: bytes) -> None:
        try:
            self._connection.send(*parts)
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        # The connection broke, or a signal handler raised: it is unknown how much was sent.
        self.ended = self.failed = True
        self._connection.close()

    def _head(self) -> bytes:
        self._connection.close_if_stale()
        head = self._api.response_head(self._invocation, self._content_type)
        if self._metadata is not None:
            # The delimiter is a chunk of its own, because an emulator reads the first chunk as the whole metadata.
            head += wire.chunk(self._metadata) + wire.chunk(wire.METADATA_DELIMITER)
        return head

    def _finish(self) -> None:
        self.ended = True
        try:
            answer = self._connection.receive()
        except BaseException:
            self._abort()
            raise
        self._connection.close()
        if answer.status >= 400:
            self.failed = True
            raise RuntimeApiError(
                f"the Runtime API rejected the response: status {answer.status}, {answer.body[:500]!r}"
            )
