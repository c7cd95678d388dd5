"""Lambda Managed Instances: one execution environment serves many invocations at once, each in a worker process.

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

    from .context import Invocation

_ATTEMPTS = 5
_FIRST_DELAY = 0.1  # seconds; doubles each time
_SHORT_LIFE = 1.0  # seconds
_RETURNED = 64  # exit status of a worker whose `work` returned
_STOPPED = 1  # exit status of one that its handler ended


class PatientRuntimeApi(RuntimeApi):
    """Does not give up at once: one worker's trouble must not end what the others serve. Delays are awslambdaric's."""

    def next_invocation(self) -> Invocation:
        """Waits for an invocation, for as long as it takes.

        Raises:
            RuntimeApiError: The Runtime API gave none, five times.
        """
        delay = _FIRST_DELAY
        for _ in range(_ATTEMPTS - 1):
            try:
                return super().next_invocation()
            except RuntimeApiError as error:
                logs.complain(f"streaming_runtime: {error}; trying again in {delay} s\n")
                time.sleep(delay)
                delay *= 2
        return super().next_invocation()

    def _error_accepted(self, target: str, status: int) -> bool:
        # Another worker, which failed in the same way, may have been first.
        return (target == "/init/error" and status == 403) or super()._error_accepted(target, status)


def supervise(count: int, work: Callable[[], int]) -> int:
    """Runs `work` in `count` processes until all have ended.

    A worker that was killed, or that its handler ended, is replaced. One whose `work` returned, or that did not live
    long, is not: the next would fare no better.

    Returns:
        Exit status: not 0, since a worker that ends has failed.
    """
    workers: dict[int, float] = {}
    terminated = False

    def terminate(number: int, _frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        for worker in workers:
            with suppress(ProcessLookupError):  # of one that has just ended by itself
                os.kill(worker, number)

    def start() -> None:
        # The signal waits until the parent knows of the worker, and the worker has left the parent's handling.
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
        if terminated or started is None:  # a child that a wrapper had before this process was ours is no worker
            continue
        lived = time.monotonic() - started
        status = os.waitstatus_to_exitcode(ended)
        logs.complain(f"streaming_runtime: worker {worker} ended with status {status}\n")
        if status != _RETURNED and lived > _SHORT_LIFE:
            start()
    return 128 + signal.SIGTERM if terminated else 1


def _fork(work: Callable[[], int]) -> int:
    """Forks a worker; gives its process id."""
    worker = os.fork()
    if worker:
        return worker
    status = _STOPPED
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _redirect_output()
        work()
        status = _RETURNED
    except SystemExit:
        pass  # of the handler's, which was reported
    except BaseException as error:
        logs.error(errors.report(error))
    finally:
        logs.flush()
        os._exit(status)


def _redirect_output() -> None:
    """Gives the worker log streams of its own, where Lambda provides them."""
    path = os.environ.get("_LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET")
    if not path:
        return
    for descriptor in (1, 2):
        provider = socket.socket(socket.AF_UNIX)
        provider.connect(path)
        os.dup2(provider.fileno(), descriptor)
        provider.close()
