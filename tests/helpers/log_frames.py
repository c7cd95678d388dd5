"""Log frames, as the runtime writes them to the descriptor that Lambda provides."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.helpers.gates import Drain
from tests.helpers.sandbox import BOOTSTRAP, Ended, Sandbox
from tests.helpers.scripted_api import LIMIT, Answer, event

# awslambdaric's types of frames, by log format and level.
JSON = {"": 0xA55A0002, "DEBUG": 0xA55A000A, "INFO": 0xA55A000E, "WARNING": 0xA55A0012}
JSON |= {"ERROR": 0xA55A0016, "CRITICAL": 0xA55A001A}
TEXT = {level: kind + 1 for level, kind in JSON.items()}
TYPES = {"Text": TEXT, "JSON": JSON}


@dataclass(frozen=True)
class Frame:
    """The type and the text of a frame; its time is checked when it is read."""

    kind: int
    text: str


class Frames:
    """Runs the bootstrap with a pipe as descriptor 9, and reads the frames that come through it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def run(
        self, code: str, *events: bytes | Answer, program: Sequence[str] = (BOOTSTRAP,), **environment: str | None
    ) -> tuple[list[Frame], Ended]:
        """Run a function to its end; return the frames that were written, and what else came of it."""
        started = time.time()
        path = self._sandbox.task / "frames"
        drain = Drain(path, LIMIT)
        try:
            running = self._sandbox.start(
                code,
                *(one if isinstance(one, Answer) else event(one) for one in events or (b"{}",)),
                command=("sh", "-c", 'exec "$0" "$@" 9>frames', *program),
                environment={"_LAMBDA_TELEMETRY_LOG_FD": "9", **environment},
            )
            ended = running.end()
        finally:
            data = drain.finish()
            path.unlink()
        return list(_parsed(data, started)), ended


def _parsed(data: bytes, started: float) -> Iterator[Frame]:
    while data:
        assert len(data) >= 16, data
        kind, length, stamp = (int.from_bytes(data[a:b], "big") for a, b in ((0, 4), (4, 8), (8, 16)))
        assert kind in {*TEXT.values(), *JSON.values()}, data[:80]
        assert started - 1 <= stamp / 1e6 <= time.time() + 1
        assert len(data) >= 16 + length
        yield Frame(kind, data[16 : 16 + length].decode())
        data = data[16 + length :]
