"""The Python interpreters of supported versions on this machine."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path


@functools.cache
def other_interpreters() -> dict[str, str]:
    """The interpreters of the other supported versions, by version."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found: dict[str, str] = {}
    for minor in (11, 12, 13, 14, 15):
        name = f"python3.{minor}"
        for candidate in (shutil.which(name), *pyenv.glob(f"versions/3.{minor}.*/bin/{name}")):
            # pyenv's stand-in for a version that is not installed fails.
            if candidate and f"3.{minor}" not in found and _version(candidate) == (3, minor):
                found[f"3.{minor}"] = str(candidate)
    found.pop(f"3.{sys.version_info.minor}", None)
    return found


def _version(python: str | Path) -> tuple[int, ...]:
    command = (python, "-c", "import sys; print(*sys.version_info[:2])")
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60)
    return tuple(map(int, ended.stdout.split()))
