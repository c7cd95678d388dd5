"""One invocation from its event to the end of its response."""

from __future__ import annotations

import os
from contextvars import copy_context

from . import errors, logs, wire
from .context import make_context
from .deadline import HANDLER, IDLE, SENDING, Deadline
from .event_loop import event_loop
from .marshalling import caller_buffers, decode_event, reply_to
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

    exchange = current.exchange_type(api, invocation)
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


class _Current:
    """The invocation that the process serves.

    Attributes:
        exchange: Its event and response; None between invocations.
        exchange_type: The type of that. `streaming` sets another one.
    """

    exchange: Exchange | None = None
    exchange_type: type[Exchange]


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
    _on_event_loop = False

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

    def _call(self, handler: Handler, arguments: tuple[Any, Any] | None = None) -> None:
        # Each call of a function here would be a measurable part of an invocation with a single chunk.
        result: Any = None
        is_awaitable = False
        respond = None if type(handler) is _FUNCTION else own_response(handler)
        with self._handler_section:
            if arguments is None:
                event = decode_event(self._invocation)
                self._caller_buffers = caller_buffers(event)
                self._over_http = type(event) is dict and "requestContext" in event
                context: Any = make_context(self._invocation)
            else:
                event, context = arguments
            if respond is not None:
                result = respond(handler, event, context, self)
            else:
                result = handler(event, context)
                is_awaitable = hasattr(type(result), "__await__")
                if not is_awaitable:
                    self._prepare(result)
        if respond is not None and self._failure is None:
            self._run_async(self._respond(result))
        elif is_awaitable:
            self._run_async(self._serve_async(result))
            self._send_sync(result)
        elif self._is_async(result):
            self._run_async(self._send_async(result))
        elif self._reply is not None and self._failure is None:
            self._send(self._reply.items)

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
        reply = reply_to(result, self._caller_buffers)
        frame = getattr(reply.items, "gi_frame", reply)
        if frame is reply:  # not a generator
            frame = getattr(reply.items, "ag_frame", reply)
        if frame is None:
            from .decorators import consumed

            raise consumed(reply.items, self._handler)
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
        if self._heartbeat is not None:
            self._stop_heartbeat()
        if self.stream.ended:
            raise RuntimeApiError("the response was aborted")
        self.stream.end()

    def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None

    def _report(self, error: BaseException) -> bool:
        """Log `error`, and report it to Lambda. Returns False if it must end the process."""
        if error is not self._reported:
            self._fail(self.deadline.settle(error))
        # Use type(error): an exception can override `__class__`.
        return not issubclass(type(error), (SystemExit, KeyboardInterrupt))

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._reported = error
        self._send_report(error)

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


current.exchange_type = Exchange


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


_FUNCTION: type = type(exit_child)


def own_response(handler: Handler) -> Any:
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
