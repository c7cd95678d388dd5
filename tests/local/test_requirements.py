"""The rule for requirements that the build and local runs share: what a line of a file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.requirements import problem, refused

EDITABLE, SOURCE, OUTSIDE = "an editable one", "a local folder", "a wheel outside of the project"
LINES = {
    "-e ../library": EDITABLE,
    "  --editable=./library": EDITABLE,
    "./library": SOURCE,
    "library/": SOURCE,
    ".": SOURCE,
    "library @ file:///library": SOURCE,
    "./library-1.0.tar.gz": SOURCE,
    "library-1.0.zip": SOURCE,
    "git+https://example.com/library": SOURCE,
    "library[extra] @ git+ssh://git@example.com/library.git@v1": SOURCE,
    "https://example.com/library-1.0.tar.gz#sha256=00": SOURCE,
    "../wheels/library-1.0-py3-none-any.whl": OUTSIDE,
    "./wheels/library-1.0-py3-none-any.whl": "",
    "library @ file:///wheels/library-1.0-py3-none-any.whl#sha256=00": "",
    "library[extra] @ https://example.com/library-1.0-py3-none-any.whl ; python_version > '3'": "",
    "library[extra]>=1.0 ; python_version < '4'": "",
    "library==1.0 \\\n    --hash=sha256:00": "",
    "library.zip-tools": "",
    "e-library  # not -e ./library": "",
    "--index-url https://user:password@example.com/simple": "",
    "--find-links ./wheels": "",
}


@pytest.mark.parametrize(("line", "reason"), LINES.items(), ids=LINES)
def test_lines_that_no_package_can_contain(line: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# ours\n-r more.txt\n", encoding="utf-8")
    (tmp_path / "more.txt").write_text(f"{line}\n", encoding="utf-8")
    found = list(refused(tmp_path / "requirements.txt"))
    assert [why.startswith(reason) for _, why in found] == [True] * bool(reason)


def test_file_that_includes_itself_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("-r more.txt\n-e .\n")
    (tmp_path / "more.txt").write_text("-r requirements.txt\n")
    assert [line for line, _ in refused(tmp_path / "requirements.txt")] == ["-e ."]


def test_unreachable_index_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package may be in the cache, and installing it says what is wrong otherwise."""
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "requirements.txt"
    file.write_text("library\n", encoding="utf-8")
    assert problem(tmp_path, Path(file.name), "3.13", "aarch64") is None
    file.write_text("--no-index\nlibrary\n", encoding="utf-8")
    assert "without a wheel for Python 3.13 on aarch64" in (problem(tmp_path, Path(file.name), "3.13", "aarch64") or "")
    assert problem(tmp_path, Path(file.name), "", "") is None  # an image, whose pip may build a package


def test_local_wheel_is_not_in_an_image(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    lines = "https://example.com/one-1.0-py3-none-any.whl\n./wheels/two-1.0-py3-none-any.whl\n"
    file.write_text(lines, encoding="utf-8")
    why = problem(tmp_path, Path(file.name), "", "") or ""
    assert "'./wheels/two-1.0-py3-none-any.whl': a local wheel, which the build of an image does not have" in why
