"""What the tests share: the project's files, and its function behind a URL on localhost."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from local import running
from local.function import load_function

PROJECT = Path(__file__).parent.parent


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Serves a handler of `src` or `tests`, by default the template's, with more variables set; gives its URL."""
    with ExitStack() as stack:

        def start(handler: str = "", code: Path | None = None, **environment: str) -> str:
            function = load_function(PROJECT / "template.yaml", "StreamFunction")
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            if code is not None:
                # The runtime comes from src, the handler from the folder of the test.
                monkeypatch.setenv("PYTHONPATH", str(code))
            return stack.enter_context(running(dataclasses.replace(function, handler=handler or function.handler)))

        yield start
