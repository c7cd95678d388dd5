"""The life of the process: Init, with SnapStart a snapshot, then one invocation after the other.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

from __future__ import annotations

import gc
import os
import sys

from . import deadline, errors, logs
from .event_loop import event_loop
from .importer import configure_sys_path, load_handler
from .invocation import exit_child, serve
from .runtime_api import RuntimeApi, RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from ._types import Handler

#: Environment variable: the CloudWatch namespace for metrics. Without it, none are written.
METRICS_VARIABLE = "STREAMING_RUNTIME_METRICS_NAMESPACE"
#: Environment variable: a span for each invocation, and how many milliseconds sending it may take.
OPENTELEMETRY_VARIABLE = "STREAMING_RUNTIME_OPENTELEMETRY_FLUSH_MS"

_TERMINATED = 128 + 15  # the status that shells report for a process that SIGTERM ended


def main() -> int:
    """Serve invocations until the process is ended.

    Returns:
        Exit status: never 0, because a runtime that ends has failed.
    """
    try:
        address, handler_name = os.environ["AWS_LAMBDA_RUNTIME_API"], os.environ["_HANDLER"]
    except KeyError as missing:
        logs.print_error(f"streaming_runtime: {missing} is not set; start the runtime with Lambda or an emulator\n")
        return 1
    concurrency = os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY")
    if concurrency is None:
        return run(RuntimeApi(address), handler_name)

    from . import workers

    # The variable names a single descriptor; the workers get log streams of their own.
    os.environ.pop(logs.FRAMES_VARIABLE, None)
    if not (concurrency.isdecimal() and int(concurrency)):
        logs.print_error(
            f"streaming_runtime: AWS_LAMBDA_MAX_CONCURRENCY must be a positive integer, got {concurrency!r}\n"
        )
        return 1
    return workers.supervise(int(concurrency), lambda: run(workers.RetryingRuntimeApi(address), handler_name))


def run(api: RuntimeApi, handler_name: str) -> int:
    """Initialize the function, then serve invocations until the Runtime API fails.

    Returns:
        Exit status.

    Raises:
        SystemExit, KeyboardInterrupt: The function ended the process.
    """
    logs.setup()
    os.register_at_fork(after_in_child=api.connection.leave_to_parent)
    try:
        try:
            handler = _initialize_without_collector(handler_name)
            if api.connection.forked:
                exit_child(None)
        except BaseException as error:
            if api.connection.forked:
                exit_child(error)
            report = errors.report(error)
            logs.error(report)
            api.post_init_error(report)
            return 1
        metrics = None
        if namespace := os.environ.get(METRICS_VARIABLE):
            from .metrics import Metrics

            metrics = Metrics(namespace)
        if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
            from .snapstart import snapshot

            status = snapshot(api)
            if status:
                return status
        logs.flush()
        while True:
            invocation = api.next_invocation()
            try:
                serve(api, handler, invocation, metrics)
            except SystemExit as request:
                # A handler that ends its process has failed, even if it asked for status 0.
                succeeded = request.code is None or (isinstance(request.code, int) and request.code % 256 == 0)
                sys.exit(1 if succeeded else request.code)
            if library := deadline.damaged_library():
                problem = f"the deadline interrupted {library}, which cannot run again"
                logs.print_error(f"streaming_runtime: {problem}; ending the process\n")
                sys.exit(1)
    except RuntimeApiError as error:
        logs.print_error(f"streaming_runtime: {error}\n")
        return 1
    finally:
        for hook in event_loop.shutdown_hooks:
            try:
                event_loop.run(hook())
            except Exception as error:
                logs.error(errors.report(error))
        if event_loop.shutdown_hooks:
            event_loop.close()


def _initialize_without_collector(handler_name: str) -> Handler:
    """Initialize the function while the garbage collector waits: it would go through all that is imported in vain.

    That takes an eighth of Init where many classes are made, as with pydantic. A function that sets thresholds of its
    own keeps them.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    try:
        return _initialize(handler_name)
    finally:
        if not gc.get_threshold()[0]:
            # What is there stays, so no collection of an invocation needs to look at it.
            gc.freeze()
            gc.set_threshold(*thresholds)


def _initialize(handler_name: str) -> Handler:
    deadline.setup()
    configure_sys_path()
    handler = load_handler(handler_name)
    if hasattr(handler, "__wrapped__") or hasattr(handler, "func"):  # it has decorators
        from .decorators import checked

        handler = checked(handler)
    if flush_ms := os.environ.get(OPENTELEMETRY_VARIABLE):
        handler = _traced(handler, flush_ms)
    if event_loop.shutdown_hooks:
        import signal

        signal.signal(signal.SIGTERM, _terminate)
    for hook in event_loop.startup_hooks:
        event_loop.run(hook())
    return handler


def _traced(handler: Handler, flush_ms: str) -> Handler:
    if not flush_ms.isdecimal():
        raise ValueError(f"{OPENTELEMETRY_VARIABLE} must be milliseconds, such as 2000, got {flush_ms!r}")
    try:
        from .telemetry import traced

        return traced(handler, int(flush_ms))
    except ModuleNotFoundError as error:
        packages = "`opentelemetry-sdk` and `opentelemetry-exporter-otlp-proto-http`"
        problem = f"{OPENTELEMETRY_VARIABLE} is set, but {error}; add {packages} to src/requirements.txt"
        raise errors.RuntimeFault("Runtime.ImportModuleError", problem, errors.location(handler)) from error


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the hooks
    raise SystemExit(_TERMINATED)
