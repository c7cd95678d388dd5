"""Fixtures: applications to adopt, and cookiecutter as a user would run it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.adopt.starters import STARTERS
from tests.helpers.support import run
from tests.pipeline.conftest import cloud, ministack, tools  # noqa: F401 - fixtures

#: Runs the template in an application's folder with these answers.
Adopt = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def adopt(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Adopt:
    """Run `cookiecutter … --directory adopt` as documented; `prompted` is what a user types at its prompts."""
    # Replays are kept in the home directory.
    home = tmp_path_factory.mktemp("home")

    def adopt(
        application: Path, *, check: bool = True, prompted: str | None = None, **answers: str
    ) -> subprocess.CompletedProcess[str]:
        given = [f"{option}={answer}" for option, answer in answers.items()]
        quiet = ("--no-input",) if prompted is None else ()
        checkout = os.path.relpath(template, application)
        command = ("cookiecutter", checkout, "--default-config", "--directory", "adopt", *quiet, *given)
        return run(*command, cwd=application, check=check, answers=prompted or "", HOME=str(home))

    return adopt


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """SAM's "Hello World" in a folder of its own."""
    return lay_out("hello", tmp_path / "hello")


def lay_out(starter: str, folder: Path) -> Path:
    """Write the files of a starter."""
    for name, content in STARTERS[starter].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
        if content.startswith("#!"):
            path.chmod(0o755)
    return folder
