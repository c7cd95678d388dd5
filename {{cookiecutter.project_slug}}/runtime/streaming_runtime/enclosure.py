"""`streaming`: a handler whose decorators see its whole stream.

Most libraries that watch a function wrap its handler, and look at the call. A handler that streams has returned before
its first chunk is sent: spans and metrics end too early, and errors midway are not seen. Below `streaming` the stream
is sent within the call, so that whatever encloses the call encloses the stream.
"""

from __future__ import annotations

import functools

from . import errors, logs
from .deadline import HANDLER, StreamDeadlineExceeded
from .decorators import remedy, watching_decorator
from .invocation import Exchange, current, own_response
from .marshalling import streams
from .responses import StreamingResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._types import Handler


def streaming(function: Handler) -> Handler:
    """Send the stream of the handler `function` within its call, so that the decorators above enclose the stream.

    They get a dict with the status as ``statusCode`` after the last chunk, and a failure midway as an exception; the
    deadline is an `Exception` to them. Any other result than a stream is returned to them unchanged. Called by other
    code than the runtime, such as a test, the handler is as if it were not decorated.

    Args:
        function: The handler: a function, or an `AsgiHandler`. Decorators that change the response may be below this
            one, but none of a library that watches the function.

    Raises:
        TypeError: `function` has a decorator of such a library.
    """
    if (watching := watching_decorator(function)) is not None:
        raise TypeError(f"@streaming must be below {watching}, which would not see the stream: {remedy(function)}")

    @functools.wraps(function, updated=())
    def handler(event: Any, context: Any) -> Any:
        if current.exchange is None:
            return function(event, context)
        assert isinstance(current.exchange, EnclosedExchange)
        return current.exchange.enclose(function, event, context)

    current.exchange_type = EnclosedExchange
    if current.exchange is not None:  # the handler imports or decorates the function when it is called
        current.exchange.__class__ = EnclosedExchange
    return handler


class Streamed(dict):  # type: ignore[type-arg]  # `Any` does not exist at run time
    """What the decorators of a handler see of a response that was sent: its status, and how much was streamed.

    It is a dict with ``statusCode``, because that is what libraries look for. It cannot be changed: it is too late.
    """

    def __setitem__(self, name: str, _value: object) -> None:
        """Refuse a change.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"cannot set {name!r}: the response was sent; set it in the handler, below @streaming")


class EnclosedExchange(Exchange):
    """The event of an invocation and the response to it, which some of the handler's decorators enclose."""

    _enclosing = False  # the handler's decorators are still to see what happens
    _value: Any = None  # of the enclosed handler, unless it is a stream
    _streamed: Streamed | None = None

    def enclose(self, function: Handler, event: Any, context: Any) -> Any:
        """Call `function` and send what it streams, before the decorators around this call see its end.

        Returns:
            A `Streamed`, or what `function` returned unless that is a stream. On a running event loop, an awaitable.

        Raises:
            RuntimeError: A response was already sent.
            BaseException: Anything that `function` and its stream raise.
        """
        if self.stream.started:
            raise RuntimeError("the handler was called again after its response was sent")
        if self._on_event_loop:
            return self._enclose_async(function, event, context)
        with _Enclosure(self):
            self._call(function, (event, context))
        return self._outcome()

    async def _enclose_async(self, function: Handler, event: Any, context: Any) -> Any:
        with _Enclosure(self):
            result: Any = None
            respond = own_response(function)
            with self._handler_section:
                if respond is not None:
                    result = respond(function, event, context, self)
                else:
                    result = function(event, context)
                    if not hasattr(type(result), "__await__"):
                        self._prepare(result)
            if respond is not None:
                await self._respond(result)
            elif hasattr(type(result), "__await__"):
                await self._serve_async(result)
            elif self._is_async(result):
                await self._send_async(result)
            self._send_sync(result)
        return self._outcome()

    def _outcome(self) -> Any:
        error, self._reply = self._failure, None
        if error is not None:
            if not self.stream.ended:  # a decorator may answer instead
                self._failure = None
            self._encode = StreamingResponse.encode
            raise error
        return self._value if self._streamed is None else self._streamed

    def _prepare(self, result: Any) -> None:
        if not self._enclosing and self.stream.ended:  # the handler is a decorated one, which has responded
            if self._failure is None and result is not self._streamed:
                logs.warn(
                    f"ignored what a decorator returned after the response was sent: {type(result).__name__}; "
                    "put it below @streaming to change the response"
                )
        elif self._enclosing and not streams(result):
            self._value = result
        else:
            super()._prepare(result)

    def _end(self) -> None:
        super()._end()
        if self._enclosing:
            sent = {"bytes": self.stream.bytes_sent, "chunks": self.stream.chunks_sent}
            self._streamed = Streamed(statusCode=self.stream.status_code, streamed=sent)

    def _fail(self, error: BaseException) -> None:
        # Before the first byte, an error of an enclosed stream is only kept: a decorator may answer it.
        if self._enclosing:
            self._stop_heartbeat()
            error = _as_exception(error)
        first = self._failure is None
        if self.stream.started or not self._enclosing:
            super()._fail(error)
        elif first:
            self._failure = error
        else:
            logs.error(errors.report(error, self._invocation.request_id))


class _Enclosure:
    """A block inside the handler's call in which its stream is sent."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: EnclosedExchange) -> None:
        self._exchange = exchange

    def __enter__(self) -> None:
        self._exchange._enclosing = True

    def __exit__(self, *_: object) -> None:
        self._exchange._enclosing = False
        self._exchange.deadline.activity = HANDLER  # the handler's decorators follow


class _DeadlineForDecorators(StreamDeadlineExceeded, Exception):
    """The deadline as the decorators of a handler see it, most of which look for `Exception` alone."""


_DeadlineForDecorators.__name__ = _DeadlineForDecorators.__qualname__ = StreamDeadlineExceeded.__name__
_DeadlineForDecorators.__module__ = StreamDeadlineExceeded.__module__


def _as_exception(error: BaseException) -> BaseException:
    """Return an `Exception` in place of a deadline that has left the handler; any other error unchanged."""
    if type(error) is not StreamDeadlineExceeded:
        return error
    late = _DeadlineForDecorators(*error.args).with_traceback(error.__traceback__)
    late.thread = error.thread
    late.__cause__, late.__context__, late.__suppress_context__ = (
        error.__cause__,
        error.__context__,
        error.__suppress_context__,
    )
    return late
