"""One invocation from its event to the end of its response."""

from __future__ import annotations

import os
from contextvars import copy_context

from . import errors, logs, wire
from .context import make_context
from .deadline import HANDLER, IDLE, SENDING, Deadline, as_exception
from .event_loop import event_loop
from .marshalling import caller_buffers, decode_event, reply_to, streams
from .response_stream import ResponseStream
from .responses import StreamingResponse
from .runtime_api import RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
    from typing import Any

    from ._types import Handler, Report
    from .event_stream import Heartbeat
    from .marshalling import Reply
    from .metrics import Metrics
    from .runtime_api import Connection, Invocation, RuntimeApi


def serve(api: RuntimeApi, handler: Handler, invocation: Invocation, metrics: Metrics | None = None) -> None:
    """Call `handler` for one invocation, and stream what it returns or yields.

    Every failure of the handler is logged and reported to Lambda.

    Args:
        api: Where the response is sent.
        handler: The function's handler.
        invocation: The invocation to serve.
        metrics: Where to write the metrics of the invocation, or None.

    Raises:
        SystemExit, KeyboardInterrupt: The handler ended the process, after this was reported.
    """
    logs.enter_invocation(invocation.request_id, invocation.tenant_id)
    if invocation.trace_id is not None:
        os.environ["_X_AMZN_TRACE_ID"] = invocation.trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)

    exchange = Exchange(api, invocation)
    try:
        # In its own context: an invocation must not see the context variables of another.
        copy_context().run(exchange.run, handler)
    finally:
        if metrics is not None:
            metrics.write(invocation, exchange.stream)
        logs.flush()


def exit_child(error: BaseException | None) -> None:
    """End a forked child that has left the function's code. It is not the runtime, so it must not respond.

    Args:
        error: What it raised, or None.
    """
    status = 0
    if issubclass(type(error), SystemExit):
        code = error.code  # type: ignore[union-attr]
        if code is not None and not isinstance(code, int):
            logs.print_error(f"{code}\n")
        status = code & 0xFF if isinstance(code, int) else int(code is not None)
    elif error is not None:
        logs.error(errors.report(error))
        status = 1
    logs.flush()
    os._exit(status)


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


class _Current:
    """The invocation that the process serves.

    Attributes:
        exchange: Its event and response; None between invocations.
    """

    exchange: Exchange | None = None


current = _Current()


class Exchange:
    """The event of an invocation and the response to it.

    Attributes:
        stream: The response.
        deadline: The deadline of the invocation.
        send_part: Sends a part of a long response that the handler writes itself, faster than `write`; see `Writer`.
    """

    send_part: Callable[[Any], bool] | None = None
    _handler: Handler | None = None
    _failure: BaseException | None = None  # what ended the handler or its content
    _reported: BaseException | None = None
    _reply: Reply | None = None
    _caller_buffers = False
    _over_http: bool | None = None  # None before the handler is called
    _heartbeat: Heartbeat | None = None
    _encode: Callable[[Any], bytes] = staticmethod(StreamingResponse.encode)
    _enclosing = False  # the handler's decorators are still to see what happens
    _on_event_loop = False
    _value: Any = None  # of the enclosed handler, unless it is a stream
    _streamed: Streamed | None = None

    def __init__(self, api: RuntimeApi, invocation: Invocation) -> None:
        self.stream = ResponseStream(api, invocation)
        self._invocation = invocation
        self.deadline = Deadline(invocation.deadline_ms, api.connection.abort)
        self._handler_section = _HandlerSection(self.deadline, self._report, api.connection)

    def run(self, handler: Handler) -> None:
        """Serve the invocation. Raises only what `serve` raises."""
        current.exchange, self._handler = self, handler
        with self.deadline:
            try:
                self._call(handler)
            except BaseException as error:
                # The deadline passed just as the handler ended, or an exception left the event loop past its task.
                if error is self._reported or not self._report(error):
                    raise
            finally:
                current.exchange = None

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
            respond = _own_response(function)
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

    def _call(self, handler: Handler, arguments: tuple[Any, Any] | None = None) -> None:
        result: Any = None
        respond = _own_response(handler)
        with self._handler_section:
            event, context = arguments or self._arguments()
            if respond is not None:
                result = respond(handler, event, context, self)
            else:
                result = handler(event, context)
                if not hasattr(type(result), "__await__"):
                    self._prepare(result)
        if respond is not None and self._failure is None:
            self._run_async(self._respond(result))
        elif hasattr(type(result), "__await__"):
            self._run_async(self._serve_async(result))
        elif self._is_async(result):
            self._run_async(self._send_async(result))
        self._send_sync(result)

    def _arguments(self) -> tuple[Any, Any]:
        event = decode_event(self._invocation)
        self._caller_buffers = caller_buffers(event)
        self._over_http = type(event) is dict and "requestContext" in event
        return event, make_context(self._invocation)

    async def _respond(self, response: Awaitable[None]) -> None:
        with self._handler_section:
            await response
        await self._close_async(())

    def start(self, metadata: bytes) -> None:
        """Set the HTTP metadata of a response that the handler writes itself."""
        self.stream.prepare(wire.HTTP_INTEGRATION_RESPONSE, metadata)

    def write(self, part: bytes, last: bool) -> bool:
        """Send a part of a response that the handler writes itself. Tell whether that succeeded."""
        self.deadline.activity = SENDING
        written = False
        try:
            self.stream.write(part, last=last)
            written = True
            if last:
                self._end()
            elif self.stream.chunks_sent > 1:  # creating the function takes longer than sending one part
                self.send_part = self.stream.sender(self._encode, self.deadline)
        except RuntimeApiError as error:
            self.note_failure(error)
        self.deadline.activity = HANDLER
        return written

    def note_failure(self, error: RuntimeApiError) -> None:
        """Report that a response which the handler writes itself was not sent."""
        if self.stream.forked:
            exit_child(error)
        self._report(error)

    async def _serve_async(self, awaitable: Awaitable[Any]) -> None:
        # The handler and its content are a single task, so that the content can leave what the handler entered.
        result: Any = None
        with self._handler_section:
            result = await awaitable
            self._prepare(result)
        if self._is_async(result):
            await self._send_async(result)

    def _prepare(self, result: Any) -> None:
        if self._enclosing:
            if not streams(result):
                self._value = result
                return
        elif self.stream.ended:  # the handler is a decorated one, which has responded
            if self._failure is None and result is not self._streamed:
                logs.warn(
                    f"ignored what a decorator returned after the response was sent: {type(result).__name__}; "
                    "put it below @streaming to change the response"
                )
            return
        reply = reply_to(result, self._caller_buffers)
        if getattr(reply.items, "gi_frame", reply) is None or getattr(reply.items, "ag_frame", reply) is None:
            raise self._consumed(reply.items)
        if result is None and self._over_http:
            self._warn_of_none()
        self.stream.prepare(reply.content_type, reply.metadata)
        if reply.response is not None:
            self._encode = reply.response.encode
            if reply.response.status_code in wire.WITHOUT_CONTENT:
                self._encode = _drop
            elif reply.response.ping:
                from .event_stream import Heartbeat

                self.deadline.activity = IDLE  # a heartbeat that was started must be stored, so that it can be stopped
                self._heartbeat = Heartbeat(self.stream, reply.response.ping)
        self._reply = reply

    def _consumed(self, generator: Any) -> errors.RuntimeFault:
        from .decorators import decorators, remedy

        assert self._handler is not None
        names = " or ".join(decorators(self._handler)) or "code that records what the handler returns"
        problem = f"'{generator.__name__}' was already read when its items were to be sent, probably by {names}"
        message = f"{problem}: {remedy(self._handler)}"
        return errors.RuntimeFault("Runtime.StreamConsumed", message, errors.location(generator))

    def _warn_of_none(self) -> None:
        line = " ".join(errors.location(self._handler)).strip().partition("\n")[0]
        logs.warn(f"the handler returned None, which is sent as null; is a `return` missing? {line}")

    def _is_async(self, result: Any) -> bool:
        """Whether the content of `result` must be sent, or closed after a failure, on the event loop.

        Sync content that is not sent ends when it is dropped. Async content may be a running task, which must be told.
        """
        if self._reply is not None:
            return hasattr(type(self._reply.items), "__aiter__")
        return isinstance(result, StreamingResponse) and hasattr(type(result.content), "aclose")

    def _send_sync(self, result: Any) -> None:
        if self._reply is not None and self._failure is None and not self._is_async(result):
            self._send(self._reply.items)

    def _send(self, items: Iterable[Any]) -> None:
        deadline, encode, write = self.deadline, self._encode, (self._heartbeat or self.stream).write
        opened = [items]
        with self._handler_section:
            iterator = iter(items)
            if iterator is not items:
                opened.insert(0, iterator)
            for item in iterator:
                data = encode(item)
                deadline.activity = SENDING
                write(data)
                if deadline.passed:
                    raise deadline.error()
                deadline.activity = HANDLER
                if self.stream.chunks_sent and self._heartbeat is None:
                    self.stream.write_rest(iterator, encode, deadline)
                    break
                if self.stream.chunks_sent:
                    send = self.stream.sender(encode, deadline, self._heartbeat)
                    for rest in iterator:
                        if send(rest):
                            raise deadline.error()
                    break
            deadline.activity = SENDING
            self._end()
        for closing in opened:
            with self._handler_section:
                close = getattr(closing, "close", None)
                if close is not None:
                    close()

    async def _send_async(self, result: Any) -> None:
        if self._reply is None or self._failure is not None:
            await self._close_async([result.content if isinstance(result, StreamingResponse) else result])
            return
        items: AsyncIterable[Any] = self._reply.items
        deadline, encode, write = self.deadline, self._encode, (self._heartbeat or self.stream).write
        opened = [items]
        with self._handler_section:
            iterator = aiter(items)
            if iterator is not items:
                opened.insert(0, iterator)
            send: Callable[[Any], bool] | None = None
            async for item in iterator:
                if send is not None:
                    late = send(item)
                else:
                    data = encode(item)
                    deadline.activity = SENDING
                    write(data)
                    late = deadline.passed
                    deadline.activity = SENDING if late else HANDLER
                    if self.stream.chunks_sent:
                        send = self.stream.sender(encode, deadline, self._heartbeat)
                if late:
                    from asyncio import sleep

                    await sleep(0)  # let the event loop deliver a pending cancellation
                    raise deadline.error()
            deadline.activity = SENDING
            self._end()
        await self._close_async(opened)

    async def _close_async(self, opened: Iterable[Any]) -> None:
        for closing in opened:
            with self._handler_section:
                close = getattr(closing, "aclose", None)
                if close is not None:
                    await close()
        with self._handler_section:
            # The event loop closes inner generators that were dropped, each in its own task.
            from asyncio import all_tasks, sleep, wait

            await sleep(0)
            while left := [task for task in all_tasks() if _closes_generator(task)]:
                await wait(left)

    def _run_async(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._on_event_loop = True
        try:
            event_loop.run(coroutine, copy_context(), self.deadline)
        finally:
            self._on_event_loop = False

    def _end(self) -> None:
        if self.stream.forked:
            exit_child(None)
        self._stop_heartbeat()
        if self.stream.ended:
            raise RuntimeApiError("the response was aborted")
        self.stream.end()
        if self._enclosing:
            self._streamed = self._summary()

    def _summary(self) -> Streamed:
        sent = {"bytes": self.stream.bytes_sent, "chunks": self.stream.chunks_sent}
        return Streamed(statusCode=self.stream.status_code, streamed=sent)

    def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None

    def _report(self, error: BaseException) -> bool:
        """Log `error`, and report it to Lambda. Returns False if it must end the process.

        Before the first byte, an error of an enclosed stream is only kept: a decorator may answer it.
        """
        if error is not self._reported:
            error = self.deadline.settle(error)
            if self._enclosing:
                self._stop_heartbeat()
                error = as_exception(error)
            first = self._failure is None
            if first:
                self._failure = error
            if self.stream.started or not self._enclosing:
                self._reported = error
                self._send_report(error)
            elif not first:
                logs.error(errors.report(error, self._invocation.request_id))
        # Use type(error): an exception can override `__class__`.
        return not issubclass(type(error), (SystemExit, KeyboardInterrupt))

    def _send_report(self, error: BaseException) -> None:
        disconnected = issubclass(type(error), RuntimeApiError)
        if disconnected and self.deadline.passed:
            # The client read so slowly that the deadline aborted the send.
            late = self.deadline.error()
            late.__cause__ = error
            error = late
        report = errors.report(error, self._invocation.request_id, *(() if disconnected else self._sources()))
        logs.error(report)
        self.deadline.activity = SENDING
        try:
            self._stop_heartbeat()
            if not self.stream.ended and not disconnected:
                self._send_final_chunk(report)
                self.stream.fail(error, report)
        except RuntimeApiError as failure:
            logs.error(errors.report(failure, self._invocation.request_id))
        self.deadline.activity = IDLE

    def _sources(self) -> tuple[object, ...]:
        """Return what of the function's code an error may be about that has no line of that in its traceback."""
        if self._over_http is None:  # the event could not be read
            return ()
        return (self._reply.items if self._reply is not None else None), self._handler

    def _send_final_chunk(self, report: Report) -> None:
        response = self._reply.response if self._reply is not None else None
        if response is not None and self.stream.started and response.status_code not in wire.WITHOUT_CONTENT:
            self.stream.write(response.final_chunk(report))


class _Enclosure:
    """A block inside the handler's call in which its stream is sent."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __enter__(self) -> None:
        self._exchange._enclosing = True

    def __exit__(self, *_: object) -> None:
        self._exchange._enclosing = False
        self._exchange.deadline.activity = HANDLER  # the handler's decorators follow


class _HandlerSection:
    """A block that runs the handler's code: the deadline may interrupt it, and what it raises is reported."""

    __slots__ = ("_connection", "_deadline", "_report")

    def __init__(self, deadline: Deadline, report: Callable[[BaseException], bool], connection: Connection) -> None:
        self._deadline = deadline
        self._report = report
        self._connection = connection

    def __enter__(self) -> None:
        self._deadline.activity = HANDLER

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        self._deadline.activity = IDLE
        if self._connection.forked:
            exit_child(error)
        return error is not None and self._report(error)


def _own_response(handler: Handler) -> Any:
    """Return how `handler` writes its response itself: see `AsgiHandler.respond`. None if it does not."""
    return getattr(getattr(type(handler), "__call__", None), "respond", None)  # noqa: B004


def _drop(_item: object) -> bytes:
    return b""


def _closes_generator(task: Task[Any]) -> bool:
    """Whether `task` closes an async generator.

    Python does not export the type of such a task's coroutine, and creating an instance to ask for its type would warn
    that it was never awaited. Therefore the type is matched by its name.
    """
    return type(task.get_coro()).__name__ == "async_generator_athrow"
