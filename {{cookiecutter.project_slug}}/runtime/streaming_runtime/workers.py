"""Lambda Managed Instances: one execution environment serves several invocations concurrently, in worker processes.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-python-runtime.html
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress

from . import errors, logs
from .runtime_api import RuntimeApi, RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .runtime_api import Invocation

_ATTEMPTS = 5
_FIRST_DELAY = 0.1  # seconds; doubles each time
_MIN_LIFETIME = 1.0  # seconds
_RETURNED = 64  # exit status of a worker whose `work` returned
_EXITED = 1  # exit status of a worker whose handler ended it


class RetryingRuntimeApi(RuntimeApi):
    """Retries: one worker's failure must not end what the others serve. The delays are awslambdaric's."""

    def next_invocation(self) -> Invocation:
        """Wait for an invocation, without a timeout.

        Raises:
            RuntimeApiError: Five attempts failed.
        """
        delay = _FIRST_DELAY
        for _ in range(_ATTEMPTS - 1):
            try:
                return super().next_invocation()
            except RuntimeApiError as error:
                logs.print_error(f"streaming_runtime: {error}; retrying in {delay} s\n")
                time.sleep(delay)
                delay *= 2
        return super().next_invocation()

    def _error_accepted(self, target: str, status: int) -> bool:
        # Another worker may have reported its own error first.
        return (target == "/init/error" and status == 403) or super()._error_accepted(target, status)


def supervise(count: int, work: Callable[[], int]) -> int:
    """Run `work` in `count` processes until all have ended.

    A worker that was killed, or whose handler ended it, is replaced. A worker whose `work` returned, or that ended
    soon after its start, is not: a new one would fail in the same way.

    Returns:
        Exit status: never 0, because a worker that ends has failed.
    """
    workers: dict[int, float] = {}
    terminated = False

    def terminate(number: int, _frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        for worker in workers:
            with suppress(ProcessLookupError):  # it has just ended on its own
                os.kill(worker, number)

    def start() -> None:
        # Defer the signal until the parent knows the worker, and the worker has reset the parent's signal handler.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if not terminated:
            workers[_fork(work)] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    signal.signal(signal.SIGTERM, terminate)
    for _ in range(count):
        start()
    while workers:
        worker, ended = os.wait()
        started = workers.pop(worker, None)
        if terminated or started is None:  # an exec wrapper may have left a child of its own
            continue
        lifetime = time.monotonic() - started
        status = os.waitstatus_to_exitcode(ended)
        logs.print_error(f"streaming_runtime: worker {worker} ended with status {status}\n")
        if status != _RETURNED and lifetime > _MIN_LIFETIME:
            start()
    return 128 + signal.SIGTERM if terminated else 1


def _fork(work: Callable[[], int]) -> int:
    """Fork a worker, and return its process id."""
    worker = os.fork()
    if worker:
        return worker
    status = _EXITED
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _redirect_output()
        work()
        status = _RETURNED
    except SystemExit:
        pass  # raised by the handler, and reported
    except BaseException as error:
        logs.error(errors.report(error))
    finally:
        logs.flush()
        os._exit(status)


def _redirect_output() -> None:
    """Connect the worker to its own log streams, if Lambda provides them."""
    path = os.environ.get("_LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET")
    if not path:
        return
    for descriptor in (1, 2):
        provider = socket.socket(socket.AF_UNIX)
        provider.connect(path)
        number = provider.detach()
        if number == descriptor:  # it was closed
            os.set_inheritable(number, True)
        else:
            os.dup2(number, descriptor)
            os.close(number)
