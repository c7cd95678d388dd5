"""Fixtures of the tests: baked projects."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.helpers.support import ROOT, TEMPLATE, Bake, copy_sources, relocatable_python

# The tests import from the template's folder, and whatever lies there becomes a part of every project.
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take turns at Docker's engine go first: at the end, all but one of the processes would wait."""
    items.sort(key=lambda item: "engine" not in getattr(item, "fixturenames", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run that leaves something in the template's folder: it would become a part of every project."""
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", str(TEMPLATE)]
    left = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    if left and not hasattr(session.config, "workerinput"):
        print(f"\nThe template's folder holds what is no part of it; remove it with `git clean -fdX`:\n{left}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a clone would have it."""
    return copy_sources(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def bake(cookies_session: Any, template: Path) -> Bake:
    """Generates a project from the template with these answers; gives its folder."""

    def generate(**answers: str) -> Path:
        result = cookies_session.bake(extra_context=answers, template=str(template))
        if result.exception is not None:
            raise result.exception
        project: Path = result.project_path
        return project

    return generate


@pytest.fixture(scope="session")
def project(bake: Bake) -> Path:
    """The default project. Tests that change files bake one of their own."""
    return bake()


@pytest.fixture(scope="session")
def python_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter that runs the tests, as one that may ship with a function. Tests leave it as it is."""
    return relocatable_python(tmp_path_factory.mktemp("python") / "home")
