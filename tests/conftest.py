"""Fixtures of all tests: the template and generated projects; and what every test process needs to be set up."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.helpers.images import engine, provide_image  # noqa: F401 - fixtures
from tests.helpers.processes import restore_signals
from tests.helpers.support import ROOT, TEMPLATE, Bake, copy_sources, relocatable_python

restore_signals()

# The tests import from the template's folder, and every file in it becomes a part of every project.
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

# The duration of an example depends on the load of the machine, so it must not fail a test.
settings.register_profile("no deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no deadline")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that take turns at the Docker engine first.

    At the end, all processes but one would wait for it.
    """
    items.sort(key=lambda item: "engine" not in getattr(item, "fixturenames", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves files in the template's folder: they would become a part of every project."""
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", str(TEMPLATE)]
    left = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    if left and not hasattr(session.config, "workerinput"):
        print(f"\nThese files in the template's folder do not belong to it; remove them with `git clean -fdX`:\n{left}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template as a clone would have it."""
    return copy_sources(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def bake(cookies_session: Any, template: Path) -> Bake:
    """A function that generates a project from the template with these answers and returns its folder."""

    def generate(**answers: str) -> Path:
        result = cookies_session.bake(extra_context=answers, template=str(template))
        if result.exception is not None:
            raise result.exception
        project: Path = result.project_path
        return project

    return generate


@pytest.fixture(scope="session")
def project(bake: Bake) -> Path:
    """The default project. Tests that change files generate their own."""
    return bake()


@pytest.fixture(scope="session")
def python_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter that runs the tests, laid out to ship with a function. Tests must not change it."""
    return relocatable_python(tmp_path_factory.mktemp("python") / "home")
