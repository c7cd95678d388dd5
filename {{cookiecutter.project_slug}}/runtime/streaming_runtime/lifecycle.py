"""The life of the process: Init, a snapshot where SnapStart takes one, then one invocation after the other.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

from __future__ import annotations

import os
import sys

from . import deadline, errors, logs
from .errors import RuntimeFault
from .invocation import close_event_loop, run_coroutine, serve
from .runtime_api import RuntimeApi, RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine
    from types import FrameType
    from typing import Any

    #: Of ASGI 3.
    Application = Callable[[Any, Any, Any], Awaitable[None]]
    Message = dict[str, Any]
    Handler = Callable[[Any, Any], Any]
    Hook = Callable[[], Coroutine[Any, Any, None]]

#: Run before the first invocation, on the event loop that serves all of them.
startup_hooks: list[Hook] = []
#: Run before the process ends, if it is given the time.
shutdown_hooks: list[Hook] = []

# Exit statuses of awslambdaric for hooks of SnapStart that failed.
_BEFORE_SNAPSHOT_FAILED = 64
_AFTER_RESTORE_FAILED = 65
_TERMINATED = 128 + 15


def main() -> int:
    """Serves invocations until the process is ended.

    Returns:
        Exit status: not 0, since a runtime that ends has failed.
    """
    try:
        address, handler_name = os.environ["AWS_LAMBDA_RUNTIME_API"], os.environ["_HANDLER"]
    except KeyError as missing:
        logs.complain(f"streaming_runtime: {missing} is not set; Lambda or an emulator of it must start this\n")
        return 1
    concurrency = os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY")
    if concurrency is None:
        return run(RuntimeApi(address), handler_name)

    from . import workers

    # It is one descriptor; the workers get log streams of their own.
    os.environ.pop(logs.FRAMES_VARIABLE, None)
    if not (concurrency.isdecimal() and int(concurrency)):
        logs.complain(f"streaming_runtime: AWS_LAMBDA_MAX_CONCURRENCY is no number above 0: {concurrency!r}\n")
        return 1
    return workers.supervise(int(concurrency), lambda: run(workers.PatientRuntimeApi(address), handler_name))


def run(api: RuntimeApi, handler_name: str) -> int:
    """Makes the function ready, then serves invocations until the Runtime API gives no more.

    Returns:
        Exit status.

    Raises:
        SystemExit, KeyboardInterrupt: The function ended the process.
    """
    logs.setup()
    try:
        try:
            function = _initialize(handler_name)
        except BaseException as error:
            report = errors.report(error)
            logs.error(report)
            api.post_init_error(report)
            return 1
        if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
            status = _snapshot(api)
            if status:
                return status
        logs.flush()
        while True:
            invocation = api.next_invocation()
            try:
                serve(api, function, invocation)
            except SystemExit as wanted:
                # A handler that ends its process has failed, even where it asked for a status of 0.
                succeeded = wanted.code is None or (isinstance(wanted.code, int) and wanted.code % 256 == 0)
                sys.exit(1 if succeeded else wanted.code)
    except RuntimeApiError as error:
        logs.complain(f"streaming_runtime: {error}\n")
        return 1
    finally:
        for hook in shutdown_hooks:
            try:
                run_coroutine(hook())
            except Exception as error:
                logs.error(errors.report(error))
        if shutdown_hooks:
            close_event_loop()


class Lifespan:
    """An ASGI application's lifespan on one event loop. It is one task: what it enters there it must leave there.

    https://asgi.readthedocs.io/en/latest/specs/lifespan.html

    Attributes:
        loop: The event loop.
        state: What the application keeps for its requests.
    """

    def __init__(self, app: Application) -> None:
        """Begins on the event loop that runs."""
        import asyncio

        self.loop = asyncio.get_running_loop()
        self.state: dict[str, Any] = {}
        self._started, self._stopping, self._stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._begun = False
        self._failure: BaseException | None = None
        self._task = asyncio.create_task(self._run(app))

    async def startup(self) -> None:
        """Waits until the application is ready.

        Raises:
            RuntimeError: The application says that it failed.
        """
        await self._answer(self._started)

    async def shutdown(self) -> None:
        """Asks the application to end, and waits until it has.

        Raises:
            RuntimeError: The application says that it failed.
        """
        self._stopping.set()
        await self._answer(self._stopped)

    async def _answer(self, event: asyncio.Event) -> None:
        await event.wait()
        if self._failure is not None:
            raise self._failure

    async def _run(self, app: Application) -> None:
        asgi = {"version": "3.0", "spec_version": "2.0"}
        try:
            await app({"type": "lifespan", "asgi": asgi, "state": self.state}, self._receive, self._send)
        except BaseException as error:
            # An error in place of an answer says that the application has no lifespan, which is all right.
            unsupported = not self._started.is_set() and isinstance(error, Exception)
            if self._failure is None and not unsupported:
                self._failure = error
        self._started.set()
        self._stopped.set()

    async def _receive(self) -> Message:
        if not self._begun:
            self._begun = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            self._failure = RuntimeError(message.get("message") or kind)
        elif kind not in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent on the lifespan.")
        (self._started if kind.startswith("lifespan.startup.") else self._stopped).set()


def load(name: str) -> Handler:
    """Imports the handler called `name`, such as ``app.handler`` or ``package/module.handler``.

    Raises:
        RuntimeFault: The name is malformed, its module cannot be imported, or the module has no such attribute.
        Exception: Whatever else the module raised while it was imported.
    """
    module_name, dot, attribute = name.rpartition(".")
    if not dot or not module_name or not attribute:
        raise RuntimeFault(
            "Runtime.MalformedHandlerName",
            f"Bad handler '{name}': it must name a module and a function, as app.handler",
        )
    if module_name.partition(".")[0] in sys.builtin_module_names:
        raise RuntimeFault(
            "Runtime.BuiltInModuleConflict", f"Cannot use built-in module {module_name} as a handler module"
        )
    dotted_name = module_name.replace("/", ".")
    try:
        __import__(dotted_name)
    except ImportError as error:
        raise RuntimeFault("Runtime.ImportModuleError", f"Unable to import module '{module_name}': {error}") from error
    except SyntaxError as error:
        where = f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'
        raise RuntimeFault(
            "Runtime.UserCodeSyntaxError", f"Syntax error in module '{module_name}': {error}", [where]
        ) from error
    try:
        handler: Handler = getattr(sys.modules[dotted_name], attribute)
    except AttributeError:
        raise RuntimeFault(
            "Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{module_name}'"
        ) from None
    return handler


def _initialize(handler_name: str) -> Handler:
    deadline.setup()
    _look_for_modules_like_lambda()
    handler = load(handler_name)
    if shutdown_hooks:
        import signal

        signal.signal(signal.SIGTERM, _terminate)
    for hook in startup_hooks:
        run_coroutine(hook())
    return handler


def _look_for_modules_like_lambda() -> None:
    # The function's code, then its layers (https://docs.aws.amazon.com/lambda/latest/dg/python-layers.html); last what
    # Lambda itself provides. Each as a site directory, whose .pth files count.
    task_root = os.path.abspath(os.environ.get("LAMBDA_TASK_ROOT", ""))
    os.chdir(task_root)
    layer = "/opt/python"
    layer_packages = f"{layer}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    before = [path for path in (task_root, layer_packages, layer) if os.path.isdir(path)]
    behind = [path for path in (os.environ.get("LAMBDA_RUNTIME_DIR", ""),) if os.path.isdir(path)]
    known = [*before, *behind]
    sys.path[:] = [*before, *(path for path in sys.path if path not in known), *behind]
    for path in before:
        if any(name.endswith(".pth") for name in os.listdir(path)):
            from site import addsitedir

            addsitedir(path)


def _snapshot(api: RuntimeApi) -> int:
    """Runs the hooks of the `snapshot_restore_py` package around the snapshot; gives the exit status, or 0 to go on."""
    # It comes with Lambda's Python. Where the function did not import it, there are no hooks.
    hooks = sys.modules.get("snapshot_restore_py")
    try:
        before = hooks.get_before_snapshot() if hooks else []
        while before:
            function, arguments, keywords = before.pop()
            function(*arguments, **keywords)
        logs.flush()
        api.restore_next()
    except BaseException as error:
        report = errors.report(error)
        logs.error(report)
        api.post_init_error(report, "Runtime.BeforeSnapshotError")
        return _BEFORE_SNAPSHOT_FAILED
    try:
        for function, arguments, keywords in hooks.get_after_restore() if hooks else []:
            function(*arguments, **keywords)
    except BaseException as error:
        report = errors.report(error)
        logs.error(report)
        api.post_restore_error(report)
        return _AFTER_RESTORE_FAILED
    return 0


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one must not break the hooks off
    raise SystemExit(_TERMINATED)
