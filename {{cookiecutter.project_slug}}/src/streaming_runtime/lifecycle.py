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
    from collections.abc import Callable, Coroutine
    from types import FrameType
    from typing import Any

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
