"""Fixtures of the tests: baked projects."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support import ROOT, Bake, source_files

# The tests import from the template's folder, and whatever lies there becomes a part of every project.
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a clone would have it, without the caches that tools leave in a working tree."""
    clone: Path = tmp_path_factory.mktemp("template")
    for path in source_files():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, clone / path)
    return clone


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
