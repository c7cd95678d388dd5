"""Initializes a function as the runtime does, up to the snapshot, and prints what SnapStart would store with it.

`test_snapshot.py` runs this file in a process of its own.
"""

import functools
import gc
import json
import os
import random
import secrets
import socket
import stat
import sys
import uuid
from collections.abc import Iterator
from types import FrameType
from typing import Any

from streaming_runtime import lifecycle
from streaming_runtime.runtime_api import RuntimeApi

# What returns another value in each process.
UNIQUE: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("urandom",)),
    (uuid, ("uuid1", "uuid4", "uuid6", "uuid7")),
    (secrets, tuple(name for name in secrets.__all__ if name not in ("SystemRandom", "compare_digest"))),
    (random, tuple(name for name in random.__all__ if name[0].islower())),
    (random.Random, ("__init__", "seed")),
    (random.SystemRandom, ("random", "getrandbits")),
)
MODULES = {"uuid", "secrets", "random", __name__}


class Snapshot(RuntimeApi):
    """Ends the process where the runtime reports that it is ready for its snapshot."""

    def __init__(self, code: str, output: int) -> None:
        """Watch the code in the folder `code`; `output` receives the result."""
        super().__init__("127.0.0.1:9")  # nothing is sent
        self._code = os.path.join(code, "")
        self._output = output
        self._unique: dict[str, str] = {}
        self._connected: dict[int, str] = {}
        for owner, names in UNIQUE:
            for name in names:
                if hasattr(owner, name):  # uuid6 and uuid7 are new in Python 3.14
                    setattr(owner, name, self._watched(getattr(owner, name), f"{owner.__name__}.{name}"))
        sys.addaudithook(self._note_connection)

    def restore_next(self) -> None:
        gc.collect()  # which closes what nothing references
        unique = [f"{place} calls {function}" for place, function in self._unique.items()]
        self._end(connections=[*self._connections()], unique=unique)

    def post_init_error(self, report: Any, error_type: str | None = None) -> None:
        self._end(error=f"{report['errorType']}: {report['errorMessage']}")

    def _end(self, **found: Any) -> None:
        os.write(self._output, json.dumps(found).encode())
        os._exit(0)

    def _watched(self, function: Any, name: str) -> Any:
        """Return the function, which then notes each call by the code or on its behalf."""

        @functools.wraps(function)
        def watched(*arguments: Any, **keywords: Any) -> Any:
            caller: FrameType | None = sys._getframe(1)
            while caller is not None and caller.f_globals.get("__name__") in MODULES:
                caller = caller.f_back
            # SystemRandom has no state of its own, so that making one takes no value.
            stateless = name.startswith("Random.") and isinstance(arguments[0], random.SystemRandom)
            if caller is not None and self._is_code(caller) and not stateless:
                self._unique.setdefault(self._place(caller), name)
            return function(*arguments, **keywords)

        return watched

    def _note_connection(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            frame: FrameType | None = sys._getframe()
            while frame is not None and not self._is_code(frame):
                frame = frame.f_back
            if frame is not None:
                self._connected[arguments[0].fileno()] = self._place(frame)

    def _connections(self) -> Iterator[str]:
        for descriptor in map(int, os.listdir("/dev/fd")):
            try:
                if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    continue
                with socket.socket(fileno=os.dup(descriptor)) as opened:
                    if opened.family in (socket.AF_INET, socket.AF_INET6) and opened.type == socket.SOCK_STREAM:
                        host, port, *_ = opened.getpeername()
                        yield f"{self._connected.get(descriptor, 'a library')} connects to {host}:{port}"
            except OSError:  # closed meanwhile, or not connected
                continue

    def _is_code(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.startswith(self._code)

    def _place(self, frame: FrameType) -> str:
        return f"{frame.f_code.co_filename.removeprefix(self._code)}:{frame.f_lineno}"


if __name__ == "__main__":
    result = os.dup(1)
    os.dup2(2, 1)  # what the function prints is not the result
    lifecycle.run(Snapshot(os.environ["LAMBDA_TASK_ROOT"], result), os.environ["_HANDLER"])
