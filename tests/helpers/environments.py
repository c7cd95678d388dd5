"""Dependency groups that conflict with the SAM CLI, each in a virtual environment of its own."""

from __future__ import annotations

import fcntl
from pathlib import Path

from tests.helpers.support import ROOT, run


def environment(group: str) -> Path:
    """Install a dependency group into `build/<group>`, and return the `bin` folder."""
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build" / f"{group}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ("uv", "sync", "--quiet", "--locked", "--compile-bytecode", "--only-group", group)
        run(*command, cwd=ROOT, UV_PROJECT_ENVIRONMENT=f"build/{group}")
    return ROOT / "build" / group / "bin"
