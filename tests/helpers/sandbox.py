"""The real bootstrap and the handlers of a test, in a process against a scripted Runtime API."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.gates import Fifo, Gate
from tests.helpers.protocol import check_protocol
from tests.helpers.scripted_api import LIMIT, Event, Post, Request, ScriptedApi
from tests.helpers.support import TEMPLATE

SOURCE = TEMPLATE / "runtime"
BOOTSTRAP = str(SOURCE / "bootstrap")

# By these variables coverage.py, where the tests run under it, sees what runs in a sandbox. With them an interpreter
# needs three times as long to start, so of most tests it sees the first case only.
_TRACED: dict[str, str | None] = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
UNTRACED: dict[str, str | None] = dict.fromkeys(_TRACED)

#: How long before Lambda's deadline an invocation is ended, and a value that is more than any test's time: the
#: deadline then comes when half of that time is over.
MARGIN = "STREAMING_RUNTIME_DEADLINE_MARGIN_MS"
EARLY = {MARGIN: "3600000"}

_SHOWN = 2000  # bytes of a request


@dataclass(frozen=True)
class Ended:
    """A runtime process that has ended."""

    host: str
    requests: list[Request]
    status: int
    output: str
    errors: str

    @property
    def posts(self) -> list[Request]:
        """The requests that are not `/next`."""
        return [request for request in self.requests if request.method != "GET"]

    @property
    def methods(self) -> list[str]:
        """The methods of all requests."""
        return [request.method for request in self.requests]

    @property
    def targets(self) -> list[str]:
        """The targets of all requests."""
        return [request.target for request in self.requests]

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of the posts."""
        return [request.body for request in self.posts]


@dataclass
class Running:
    """A runtime process, and the Runtime API that it talks to."""

    api: ScriptedApi
    process: subprocess.Popen[bytes]

    def end(self) -> Ended:
        """Wait until the runtime has ended without help, and check what it sent against the protocol's rules."""
        output, errors = self.process.communicate(timeout=LIMIT)
        self.api.close()
        if type(self.api) is ScriptedApi:  # one request after the other
            check_protocol(self.api.requests)
        return Ended(self.api.host, self.api.requests, self.process.returncode, output.decode(), errors.decode())

    def log_until(self, text: bytes) -> bytes:
        """What the runtime writes to standard output, up to and including `text`."""
        assert self.process.stdout is not None
        descriptor, log = self.process.stdout.fileno(), b""
        while text not in log:
            assert select.select([descriptor], [], [], LIMIT)[0], log
            log += os.read(descriptor, 65536)
        return log


class Sandbox:
    """Runs the bootstrap with handlers in the folder `task`."""

    api_type = ScriptedApi

    def __init__(self, task: Path, bytecode: Path, python: str = sys.executable, traced: bool = True) -> None:
        self.task = task
        self.python = python
        self._bytecode = bytecode
        self._traced = traced
        self._running: list[Running] = []

    def start(
        self,
        code: str,
        *events: Event,
        posts: Sequence[Post] = (),
        hold: bool = False,
        command: Sequence[str] = (BOOTSTRAP,),
        cwd: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
        python: str | None = None,
    ) -> Running:
        """Start the bootstrap with `code` as app.py.

        Args:
            code: The handler's module.
            events: What the Runtime API answers to each `/next`.
            posts: What it answers to each post.
            hold: Whether the Runtime API keeps a `/next` after the last event open, so that the runtime goes on.
            command: What to start instead of the bootstrap.
            cwd: The working directory, if not the task folder.
            environment: Changes to the environment; None removes a variable.
            python: The interpreter, if not that of the sandbox.
        """
        (self.task / "app.py").write_text(textwrap.dedent(code), encoding="utf-8")
        api = self.api_type(events, posts, hold)
        variables: dict[str, str | None] = {
            "PATH": os.defpath,
            "STREAMING_RUNTIME_PYTHON": python or self.python,
            "PYTHONPYCACHEPREFIX": str(self._bytecode),
            "AWS_LAMBDA_RUNTIME_API": "{host}",
            "LAMBDA_TASK_ROOT": str(self.task),
            "_HANDLER": "app.handler",
            **(_TRACED if self._traced else {}),
            **(environment or {}),
        }
        process = subprocess.Popen(
            command,
            cwd=cwd or self.task,
            env={name: value.replace("{host}", api.host) for name, value in variables.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._running.append(Running(api, process))
        return self._running[-1]

    def run(
        self,
        code: str,
        *events: Event,
        posts: Sequence[Post] = (),
        command: Sequence[str] = (BOOTSTRAP,),
        cwd: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
        python: str | None = None,
    ) -> Ended:
        """Start the bootstrap as `start` does, and wait for its end, after the last of `events` at the latest."""
        return self.start(
            code, *events, posts=posts, command=command, cwd=cwd, environment=environment, python=python
        ).end()

    def gate(self, name: str = "gate") -> Gate:
        """A gate at which a handler waits: it opens `name` for reading."""
        return Gate(self.task / name, LIMIT)

    def fifo(self, name: str) -> Fifo:
        """A named pipe in the task folder."""
        return Fifo(self.task / name, LIMIT)

    def script(self, name: str, text: str) -> str:
        """Write an executable script into the task folder; return its path."""
        path = self.task / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def python_without_site(self) -> str:
        """An interpreter that leaves site-packages out, so that only the runtime and the handler import anything."""
        return self.script("python", f'#!/bin/sh\nexec "{self.python}" -S "$@"\n')

    def stop(self) -> None:
        """End what still runs, and print what was sent: pytest shows it if the test has failed."""
        for running in self._running:
            with running.process as process:  # closes the pipes and waits
                process.kill()
            running.api.close()
            for request in running.api.requests:
                print(f"connection {request.connection} of {running.api.host}: {request.raw[:_SHOWN]!r}")
