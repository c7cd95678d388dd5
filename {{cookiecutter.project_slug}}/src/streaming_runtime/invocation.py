"""One invocation: the event goes into the handler, what it makes goes out as a stream."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterable, Awaitable

from . import errors, logs
from .context import LambdaContext
from .errors import RuntimeFault
from .response import Reply, item_bytes, reply_to
from .runtime_api import RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Coroutine, Iterable
    from contextvars import Context
    from typing import Any

    from .handler import Handler
    from .response import Item
    from .runtime_api import Invocation, ResponseStream, RuntimeApi

_runner: Runner | None = None


def serve(api: RuntimeApi, handler: Handler, invocation: Invocation) -> None:
    """Calls `handler` for one invocation and streams what it returns or yields.

    Every failure of the handler is logged and reported to Lambda here.

    Raises:
        SystemExit, KeyboardInterrupt: The handler asked for the end of the process; this was reported first.
    """
    logs.enter_invocation(invocation.request_id, invocation.tenant_id)
    if invocation.trace_id is not None:
        os.environ["_X_AMZN_TRACE_ID"] = invocation.trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)

    try:
        _serve(api.respond(invocation), handler, invocation)
    finally:
        logs.flush()


def _serve(stream: ResponseStream, handler: Handler, invocation: Invocation) -> None:
    asynchronous = _Asynchronous()
    reply: Reply | None = None
    with _Reporting(stream, invocation):
        result = handler(_event(invocation), _context(invocation))
        if isinstance(result, Awaitable):
            result = asynchronous.run(_awaited(result))
        reply = reply_to(result)
        stream.prepare(reply.content_type, reply.metadata)
    if reply is None:
        return
    if isinstance(reply.items, AsyncIterable):
        asynchronous.run(_send_async(reply.items, stream, invocation))
    else:
        _send(reply.items, stream, invocation)


def _send(items: Iterable[Item], stream: ResponseStream, invocation: Invocation) -> None:
    opened = [items]
    with _Reporting(stream, invocation):
        iterator = iter(items)
        if iterator is not items:
            opened.insert(0, iterator)
        for item in iterator:
            stream.write(item_bytes(item))
        stream.end()
    for closing in opened:
        with _Reporting(stream, invocation):
            close = getattr(closing, "close", None)
            if close is not None:
                close()


async def _send_async(items: AsyncIterable[Item], stream: ResponseStream, invocation: Invocation) -> None:
    # The whole stream is one task: cancel scopes and timeouts may stay open across a yield.
    opened = [items]
    with _Reporting(stream, invocation):
        iterator = aiter(items)
        if iterator is not items:
            opened.insert(0, iterator)
        async for item in iterator:
            stream.write(item_bytes(item))
        stream.end()
    for closing in opened:
        with _Reporting(stream, invocation):
            close = getattr(closing, "aclose", None)
            if close is not None:
                await close()


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class _Asynchronous:
    """Runs an invocation's coroutines on the process's event loop, in one context of variables.

    The loop outlives the invocation, since clients that a module keeps are bound to it.
    """

    def __init__(self) -> None:
        self._context: Context | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        # Importing asyncio takes longer than starting this runtime, so it waits for a handler that needs it.
        import asyncio
        import contextvars

        global _runner
        if _runner is None:
            _runner = asyncio.Runner()
        if self._context is None:
            self._context = contextvars.copy_context()
        return _runner.run(coroutine, context=self._context)


class _Reporting:
    """Logs what its block raises and reports it to Lambda; swallows it unless it is to end the process."""

    def __init__(self, stream: ResponseStream, invocation: Invocation) -> None:
        self._stream = stream
        self._request_id = invocation.request_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if error is None:
            return False
        logs.error(errors.report(error, self._request_id))
        if not isinstance(error, RuntimeApiError):
            try:
                self._stream.fail(error)
            except RuntimeApiError as failure:
                logs.error(errors.report(failure, self._request_id))
        return not isinstance(error, (SystemExit, KeyboardInterrupt))


def _event(invocation: Invocation) -> Any:
    if invocation.content_type.partition(";")[0].strip().lower() != "application/json":
        return invocation.body
    try:
        return json.loads(invocation.body)
    except ValueError as error:
        raise RuntimeFault("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from error


def _context(invocation: Invocation) -> LambdaContext:
    return LambdaContext(
        invocation.request_id,
        invocation.deadline_ms,
        invocation.function_arn,
        _json_header("Client Context", invocation.client_context),
        _json_header("Cognito Identity", invocation.cognito_identity),
        invocation.tenant_id,
    )


def _json_header(name: str, text: str | None) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        # The bytes are UTF-8; HTTP took them for latin-1.
        value: dict[str, Any] = json.loads(text.encode("latin-1"))
    except ValueError as error:
        raise RuntimeFault("Runtime.LambdaContextUnmarshalError", f"Unable to parse {name} JSON: {error}") from error
    return value
