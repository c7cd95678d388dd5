"""The Jinja extension of this template. What it adds is in `filters.py`.

`cruft update` generates from two versions of the template in one process, which imports a module once: the older one's.
And a replay names the extensions of the version that it was made with. So this module must not change, and reads the
filters of its version each time.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from jinja2 import Environment
from jinja2.ext import Extension


class Filters(Extension):
    """Adds the filters of this version, and evaluates no Jinja but this version's own."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        version = runpy.run_path(str(Path(__file__).with_name("filters.py")))
        environment.filters.update(version["FILTERS"])
        self.check = version["refuse_foreign"]

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Called with each text that is about to become a template; those of files have a name."""
        if name is None and "{" in source:
            self.check(source)
        return source
