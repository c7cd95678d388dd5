"""The latest code and template: checked before each invocation, and as soon as a file changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from .pool import SandboxPool
from .sign_in import SignIn
from .template import Template, TemplateError
from .terminal import FunctionTerminal, Terminal

#: Of each file by its path: when it was written, its size, and its number, which is new if the file was replaced.
Snapshot = dict[str, tuple[int, int, int]]

_is_code = DefaultFilter()


class Reloader:
    """Lets a function run its latest code and template.

    A watcher reports a change a moment after it was saved. A request may be faster, so each one checks too.
    """

    def __init__(self, path: Path, pool: SandboxPool, terminal: Terminal | FunctionTerminal, sign_in: SignIn) -> None:
        """Remember the present state of the template at `path` and of the code of the function in `pool`.

        Args:
            path: The template.
            pool: The function's execution environments.
            terminal: Where to report changes.
            sign_in: What provides tokens on this machine.
        """
        self._sign_in = sign_in
        self._path = path
        self._pool = pool
        self._terminal = terminal
        self._template = _snapshot(path)
        self._code = _snapshot(pool.function.code)

    async def check(self) -> None:
        """Use what was saved since the last check from the next invocation on."""
        template, self._template = self._template, _snapshot(self._path)
        code, self._code = self._code, _snapshot(self._pool.function.code)
        if template != self._template:
            await self._read_template()
        if code != self._code:
            self._terminal.say("The code changed.")
            changed = code.items() ^ self._code.items()
            if any(Path(path).name == "requirements.txt" for path, _ in changed):
                self._terminal.warn("requirements.txt changed. Restart `make dev` to install it.")
            await self._pool.update(self._pool.function)

    async def watch(self, stop: asyncio.Event) -> None:
        """Check whenever a file changes, until `stop` is set.

        Raises:
            OSError: The system's limit of watched files is reached.
        """

        def is_template(_: Change, changed: str) -> bool:
            return Path(changed) == self._path

        async def follow(changes: AsyncIterator[object]) -> None:
            async for _ in changes:
                await self.check()

        # Watch the template's folder, because an editor may replace the template by another file.
        template = awatch(self._path.parent, stop_event=stop, recursive=False, watch_filter=is_template)
        await asyncio.gather(follow(awatch(self._pool.function.code, stop_event=stop)), follow(template))

    async def _read_template(self) -> None:
        function = self._pool.function
        try:
            template = Template(self._path)
            changed = template.function(function.name)
        except TemplateError as error:
            self._terminal.say(f"The template changed, but is ignored: {error}", "red")
            return
        self._terminal.say("The template changed.")
        self._terminal.show_differences(changed, [name for name in template.names if name != function.name])
        if changed.code != function.code:
            self._terminal.warn("CodeUri changed. Restart `make dev` to watch the new folder.")
            self._code = _snapshot(changed.code)
        await self._pool.update(self._sign_in.configure(changed))


def _snapshot(path: Path) -> Snapshot:
    """Return the state of a file, or of the files in a folder that are code."""
    files = [str(path)]
    if path.is_dir():
        files = []
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if _is_code(Change.modified, os.path.join(folder, name))]
            paths = (os.path.join(folder, name) for name in names)
            files += [file for file in paths if _is_code(Change.modified, file)]
    found: Snapshot = {}
    for file in files:
        with contextlib.suppress(OSError):  # an editor may be replacing it
            state = os.stat(file)
            found[file] = (state.st_mtime_ns, state.st_size, state.st_ino)
    return found
