"""One invocation: the event goes into the handler, what it makes goes out as a stream."""

from __future__ import annotations

import os
from _contextvars import copy_context

from . import StreamingResponse, errors, logs
from .context import context_of, event_of
from .deadline import HANDLER, IDLE, SENDING, Deadline, StreamDeadlineExceeded
from .response import ResponseStream, reply_to
from .runtime_api import RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
    from contextvars import Context
    from typing import Any

    from .context import Invocation
    from .event_stream import Heartbeat
    from .lifecycle import Handler
    from .response import Reply
    from .runtime_api import RuntimeApi

_runner: Runner | None = None


def serve(api: RuntimeApi, handler: Handler, invocation: Invocation) -> None:
    """Calls `handler` for one invocation and streams what it returns or yields.

    Every failure of the handler is logged and reported to Lambda here.

    Raises:
        SystemExit, KeyboardInterrupt: The handler asked for the end of the process; this was reported first.
    """
    logs.enter_invocation(invocation)
    if invocation.trace_id is not None:
        os.environ["_X_AMZN_TRACE_ID"] = invocation.trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)

    exchange = _Exchange(api, invocation)
    try:
        # In a context of its own: no invocation sees the context variables of another.
        copy_context().run(exchange.run, handler)
    finally:
        logs.metrics(invocation, exchange.stream)
        logs.flush()


def run_coroutine(
    coroutine: Coroutine[Any, Any, Any], context: Context | None = None, deadline: Deadline | None = None
) -> Any:
    """Runs `coroutine` on the event loop of the process.

    The loop outlives the invocation, since clients that a module keeps are bound to it.
    """
    # Importing asyncio takes longer than starting this runtime, so it waits for a handler that needs it.
    import asyncio

    global _runner
    # Until the task runs, a deadline would be raised within asyncio, and leave the task to the next invocation.
    doing = IDLE
    if deadline is not None:
        doing, deadline.doing = deadline.doing, IDLE
    if _runner is None:
        _runner = asyncio.Runner()

    async def watched() -> Any:
        if deadline is not None:
            deadline.watch(asyncio.get_running_loop(), asyncio.current_task())
            deadline.doing = doing
        return await coroutine

    try:
        return _runner.run(watched(), context=context)
    finally:
        if deadline is not None:
            deadline.release()


def close_event_loop() -> None:
    """Cancels what still runs on the event loop of the process, so that no thread of it keeps the process alive."""
    assert _runner is not None
    _runner.close()


class _Exchange:
    """The event and what is sent for it."""

    _reported: BaseException | None = None
    _reply: Reply | None = None
    _heartbeat: Heartbeat | None = None
    _async_context: Context | None = None

    def __init__(self, api: RuntimeApi, invocation: Invocation) -> None:
        self.stream = ResponseStream(api, invocation)
        self._invocation = invocation
        self._deadline = Deadline(invocation.deadline_ms, api.connection.break_off)
        self._handlers_code = _HandlersCode(self._deadline, self._report)

    def run(self, handler: Handler) -> None:
        """Serves the invocation; raises no more than `serve` says."""
        with self._deadline:
            try:
                self._serve(handler)
            except BaseException as error:
                # The deadline in the moment in which the handler was done; or what left the event loop past its task.
                if error is self._reported or not self._report(error):
                    raise

    def _serve(self, handler: Handler) -> None:
        result: Any = None
        with self._handlers_code:
            result = handler(event_of(self._invocation), context_of(self._invocation))
            if hasattr(type(result), "__await__"):
                result = self._run_async(_awaited(result))
            self._reply = reply = reply_to(result)
            self.stream.prepare(reply.content_type, reply.metadata)
            if reply.response is not None and reply.response.ping:
                from .event_stream import Heartbeat

                self._deadline.doing = IDLE  # one that has started must be known, or nobody would stop it
                self._heartbeat = Heartbeat(self.stream, reply.response.ping)
        if self.stream.ended or self._reply is None:
            # Sync content ends as it is dropped; async content, which may be a task at work, has to be told.
            content = result.content if isinstance(result, StreamingResponse) else None
            if hasattr(type(content), "aclose"):
                self._run_async(self._close_async([content]))
            return
        encode = StreamingResponse.encode if reply.response is None else reply.response.encode
        if hasattr(type(reply.items), "__aiter__"):
            self._run_async(self._send_async(reply.items, encode))
        else:
            self._send(reply.items, encode)

    def _send(self, items: Iterable[Any], encode: Callable[[Any], bytes]) -> None:
        deadline, write = self._deadline, (self._heartbeat or self.stream).write
        opened = [items]
        with self._handlers_code:
            iterator = iter(items)
            if iterator is not items:
                opened.insert(0, iterator)
            for item in iterator:
                data = encode(item)
                deadline.doing = SENDING
                write(data)
                if deadline.passed:
                    raise deadline.exceeded()
                deadline.doing = HANDLER
                if self._heartbeat is None and self.stream.chunks_sent:
                    # Nobody else writes: a faster loop takes the rest.
                    self.stream.write_rest(iterator, encode, deadline)
                    break
            deadline.doing = SENDING
            self._end()
        for closing in opened:
            with self._handlers_code:
                close = getattr(closing, "close", None)
                if close is not None:
                    close()

    async def _send_async(self, items: AsyncIterable[Any], encode: Callable[[Any], bytes]) -> None:
        # The whole stream is one task: cancel scopes and timeouts may stay open across a yield.
        deadline, write = self._deadline, (self._heartbeat or self.stream).write
        opened = [items]
        with self._handlers_code:
            iterator = aiter(items)
            if iterator is not items:
                opened.insert(0, iterator)
            async for item in iterator:
                data = encode(item)
                deadline.doing = SENDING
                write(data)
                if deadline.passed:
                    from asyncio import sleep

                    await sleep(0)  # the cancellation may wait for the event loop's turn
                    raise deadline.exceeded()
                deadline.doing = HANDLER
            deadline.doing = SENDING
            self._end()
        await self._close_async(opened)

    async def _close_async(self, opened: Iterable[Any]) -> None:
        for closing in opened:
            with self._handlers_code:
                close = getattr(closing, "aclose", None)
                if close is not None:
                    await close()
        with self._handlers_code:
            # Generators within that were dropped: the event loop closes each in a task of its own.
            from asyncio import all_tasks, sleep, wait

            await sleep(0)
            while left := [task for task in all_tasks() if type(task.get_coro()).__name__ == "async_generator_athrow"]:
                await wait(left)

    def _run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        # All coroutines of an invocation see the same context variables.
        if self._async_context is None:
            self._async_context = copy_context()
        return run_coroutine(coroutine, self._async_context, self._deadline)

    def _end(self) -> None:
        self._stop_heartbeat()
        if self.stream.ended:
            raise RuntimeApiError("the response was broken off")
        self.stream.end()

    def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None

    def _report(self, error: BaseException) -> bool:
        """Logs `error` and reports it to Lambda; False if it is to end the process."""
        self._reported = error
        error = self._deadline.settle(error)
        # By its type, since an exception may say of itself what it likes.
        broken = issubclass(type(error), RuntimeApiError)
        if broken and self._deadline.passed:
            # The client was so slow that what was being sent had to be broken off.
            late = self._deadline.exceeded()
            late.__cause__ = error
            error = late
        report = errors.report(error, self._invocation.request_id)
        logs.error(report)
        self._deadline.doing = SENDING
        try:
            self._stop_heartbeat()
            if not self.stream.ended and not broken:
                self._say_last_words(error, report)
                self.stream.fail(error, report)
        except RuntimeApiError as failure:
            logs.error(errors.report(failure, self._invocation.request_id))
        self._deadline.doing = IDLE
        return not issubclass(type(error), (SystemExit, KeyboardInterrupt))

    def _say_last_words(self, error: BaseException, report: dict[str, Any]) -> None:
        response = self._reply.response if self._reply is not None else None
        if response is not None and issubclass(type(error), StreamDeadlineExceeded) and self.stream.started:
            self.stream.write(response.last_words(report))


class _HandlersCode:
    """A block that runs the handler's code: it may be interrupted, and what it raises is reported."""

    __slots__ = ("_deadline", "_report")

    def __init__(self, deadline: Deadline, report: Callable[[BaseException], bool]) -> None:
        self._deadline = deadline
        self._report = report

    def __enter__(self) -> None:
        self._deadline.doing = HANDLER

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        self._deadline.doing = IDLE
        return error is not None and self._report(error)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
