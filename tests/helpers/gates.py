"""Named pipes between a test and the function that it runs: each waits for the other, so nothing has to be timed.

No wait of the test's is longer than a given number of seconds; who never gets on fails instead of blocking the run.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

LIMIT = 60.0  # seconds


class Fifo:
    """A named pipe that the test keeps open for both directions.

    Opening it waits for nobody, bytes stay in it until they are read, and it is never at its end.
    """

    def __init__(self, path: Path, limit: float = LIMIT) -> None:
        os.mkfifo(path)
        self.path = path
        self._limit = limit
        self._descriptor = os.open(path, os.O_RDWR)

    def write(self, data: bytes) -> None:
        """Write bytes for the function, such as one for each of its reads that may return."""
        os.write(self._descriptor, data)

    def read(self, size: int) -> bytes:
        """Read `size` bytes; fail if they do not come in time."""
        data = b""
        while len(data) < size:
            assert self.ready(self._limit), f"only {data!r} came through {self.path.name}"
            data += os.read(self._descriptor, size - len(data))
        return data

    def read_line(self) -> str:
        """Read up to the next line feed, which is left out."""
        line = b""
        while not line.endswith(b"\n"):
            line += self.read(1)
        return line.decode().strip()

    def ready(self, seconds: float) -> bool:
        """Tell whether there is something to read, now or within `seconds`."""
        return bool(select.select([self._descriptor], [], [], seconds)[0])

    def close(self) -> None:
        """Close the test's end."""
        os.close(self._descriptor)


class Gate:
    """A named pipe at which a function waits until the test lets it pass.

    The function opens it for reading. As a context manager, it is entered once the function has arrived there; each
    byte that is written lets one `read(1)` return, and leaving it lets every other read return with nothing.
    """

    def __init__(self, path: Path, limit: float = LIMIT) -> None:
        os.mkfifo(path)
        self.path = path
        self._limit = limit
        self._descriptor = -1

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._limit
        while True:
            try:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                # ENXIO: nobody has opened it for reading yet, and there is nothing by which to wait for that.
                if error.errno != errno.ENXIO or time.monotonic() > deadline:
                    raise
                time.sleep(0.001)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Let as many reads of one byte return."""
        os.write(self._descriptor, data)

    def release(self) -> None:
        """Wait until the function has arrived, and let it pass."""
        with self:
            pass


class Drain:
    """Read a named pipe all the time, so that the writer never waits, and keep what came."""

    def __init__(self, path: Path, limit: float = LIMIT) -> None:
        self._fifo = Fifo(path, limit)
        self._limit = limit
        self._ended = threading.Event()
        self._data = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def finish(self) -> bytes:
        """Return all that was written, once the writers have ended."""
        self._ended.set()
        self._thread.join(self._limit)
        assert not self._thread.is_alive()
        self._fifo.close()
        return self._data

    def _read(self) -> None:
        # What was written before the end is in the pipe by then.
        while self._fifo.ready(0.02) or not self._ended.is_set():
            if self._fifo.ready(0):
                self._data += os.read(self._fifo._descriptor, 65536)
