"""What becomes of a handler's result: content type, HTTP metadata, the items of the body, and their way out."""

from __future__ import annotations

import time

from . import StreamingResponse, errors, wire
from .deadline import HANDLER, SENDING
from .errors import RuntimeFault
from .runtime_api import RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .context import Invocation
    from .deadline import Deadline
    from .runtime_api import RuntimeApi

# From this size on, copying a chunk into one piece with its frame takes longer than sending it in three.
_SCATTER_SIZE = 16 * 1024


class Reply:
    """A handler's result, ready to be sent.

    Attributes:
        content_type: Of the request that carries the response to Lambda.
        metadata: HTTP metadata to send first, or None for a stream without.
        items: Iterable or async iterable over the body.
        response: What the handler returned, if it has metadata.
    """

    __slots__ = ("content_type", "items", "metadata", "response")

    def __init__(
        self, content_type: str, metadata: bytes | None, items: Any, response: StreamingResponse | None = None
    ) -> None:
        self.content_type = content_type
        self.metadata = metadata
        self.items = items
        self.response = response


def reply_to(result: Any) -> Reply:
    """Decides what is sent for `result`.

    Raises:
        RuntimeFault: `result` is none of the things that a handler may return.
        ValueError: It is a buffered response with a status, header, cookie or body that may not be sent.
    """
    if isinstance(result, dict) and "statusCode" in result:
        result = _from_buffered(result)
    kind = type(result)
    if isinstance(result, StreamingResponse):
        return Reply(wire.HTTP_INTEGRATION_RESPONSE, result.metadata(), result.content, result)
    # What makes an iterator, as collections.abc has it; importing that would take longer than this package.
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        return Reply(wire.OCTET_STREAM, None, result)
    if isinstance(result, (bytes, bytearray, memoryview)):
        return Reply(wire.OCTET_STREAM, None, [result])
    try:
        encoded = wire.to_json(result).encode()
    except Exception as error:  # whatever the value's own methods raise
        raise RuntimeFault("Runtime.MarshalError", f"Unable to marshal response: {error}") from error
    return Reply("application/json", None, [encoded])


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
    _content_type = wire.OCTET_STREAM
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
        ready = bytes if encode is StreamingResponse.encode else None
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
        self._finish(errors.trailers(report))

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


def _from_buffered(result: dict[str, Any]) -> StreamingResponse:
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
    body = result.get("body")
    if body is None:
        body = ""
    if not isinstance(body, str):
        raise ValueError(f"body of a buffered response must be a str, not {type(body).__name__}")
    status_code = result["statusCode"]
    if isinstance(status_code, str) and status_code.isdecimal():
        status_code = int(status_code)
    headers = {name: _header_text(value) for name, value in (result.get("headers") or {}).items()}
    cookies: list[str] = []
    for name, values in (result.get("multiValueHeaders") or {}).items():
        if str(name).lower() == "set-cookie":  # the one header whose values a comma cannot join (RFC 9110, section 5.3)
            cookies += values
        else:
            headers[name] = ", ".join(map(_header_text, values))
    content: str | bytes = body
    media_type: str | None = "application/json"
    if result.get("isBase64Encoded"):
        from binascii import a2b_base64

        content, media_type = a2b_base64(body), None
    response = StreamingResponse(content, status_code, headers, media_type, result.get("cookies"))
    response.cookies += cookies
    return response


def _header_text(value: Any) -> Any:
    """A number as text; what else is not text is left to be refused with its name."""
    return str(value) if isinstance(value, (int, float)) else value
