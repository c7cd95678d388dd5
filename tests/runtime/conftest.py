"""Fixtures of the runtime's tests: sandboxes, on each supported version of Python."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.interpreters import other_interpreters
from tests.helpers.sandbox import Sandbox


@pytest.fixture(scope="session")
def _bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, tmp_path: Path, _bytecode: Path, interpreter: str) -> Iterator[Sandbox]:
    """A place to run handlers. Every process that it started is ended after the test."""
    sandbox = Sandbox(tmp_path, _bytecode, interpreter, request.node.get_closest_marker("traced") is not None)
    yield sandbox
    sandbox.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test with a sandbox on every installed interpreter of a supported version."""
    if "interpreter" not in metafunc.fixturenames:
        return
    here = pytest.param(sys.executable, id="python")
    others = [pytest.param(path, id=version, marks=pytest.mark.slow) for version, path in other_interpreters().items()]
    own = metafunc.definition.get_closest_marker("own_interpreter")
    metafunc.parametrize("interpreter", [here] if own else [here, *others])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the interpreter of each case, and the cases that coverage.py sees.

    Each case runs on the interpreter of the tests and on one of the others, in turn. That saves a minute, and on
    GitHub each version is the interpreter of the tests once.
    """
    seen: set[str] = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if test not in seen:
            item.add_marker("traced")
        seen.add(test)
    turns = itertools.cycle(other_interpreters())
    turn_of: dict[tuple[str, str], str] = {}
    left_out: dict[pytest.Item, None] = {}
    for item in items:
        test, _, parameters = item.nodeid.rstrip("]").partition("[")
        version, _, case = parameters.partition("-")
        if "interpreter" in getattr(item, "fixturenames", ()) and version in other_interpreters():
            if (test, case) not in turn_of:
                turn_of[test, case] = next(turns)
            if version != turn_of[test, case]:
                left_out[item] = None
    if left_out:
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]
