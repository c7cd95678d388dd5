"""`python -m benchmarks.bake`: the time to generate a project, compared with a template of as many empty files.

Both templates are generated in turn: with the command that a user types, including the start of Python, and through
the API within one process. There are two empty templates: a bare one, and one with two hooks that do nothing, because
cookiecutter starts Python for each hook. The target applies to the command and the bare template.
Times are processor times of all processes, because a bake waits for nothing else. Other work on the machine hardly
affects them. Exit status: 1 if the target is missed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cookiecutter.main import cookiecutter
from tests.helpers.support import copy_sources

ROUNDS = 15
MOST = 1.5


def _empty(folder: Path, files: Iterable[Path], hooks: bool) -> Path:
    """Create a template of these files, all empty, and optionally with empty hooks."""
    for file in files:
        path = folder / "{{cookiecutter.project_slug}}" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "cookiecutter.json").write_text(json.dumps({"project_slug": "lambda-stream"}), encoding="utf-8")
    if hooks:
        (folder / "hooks").mkdir()
        for hook in ("pre_gen_project", "post_gen_project"):
            (folder / "hooks" / f"{hook}.py").touch()
    return folder


def _by_command(template: Path, out: Path) -> None:
    command = [sys.executable, "-m", "cookiecutter", "--default-config", "--no-input", "-o", str(out), str(template)]
    subprocess.run(command, check=True, capture_output=True)


def _in_process(template: Path, out: Path) -> None:
    cookiecutter(str(template), no_input=True, output_dir=str(out), default_config=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard the output of this process and its children."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _processor() -> float:
    """Return the processor time of this process and its finished children, in seconds."""
    return sum(os.times()[:4])


def _medians(
    bake: Callable[[Path, Path], None], templates: dict[str, Path], work: Path, rounds: int
) -> dict[str, float]:
    """Return the median seconds for each template. They take turns in every round."""
    times: dict[str, list[float]] = {name: [] for name in templates}
    for number in range(rounds + 1):
        for name, template in templates.items():
            out = work / f"{number}-{name}"
            begun = _processor()
            bake(template, out)
            if number:  # the first round fills caches
                times[name].append(_processor() - begun)
            shutil.rmtree(out)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main(rounds: int = ROUNDS) -> int:
    """Print the figures, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ours = copy_sources(work / "ours")
        _by_command(ours, work / "out")
        project = work / "out" / "lambda-stream"
        files = [path.relative_to(project) for path in project.rglob("*") if path.is_file()]
        templates = {
            "ours": ours,
            "bare": _empty(work / "bare", files, hooks=False),
            "hooks": _empty(work / "hooks", files, hooks=True),
        }
        print(f"To generate {len(files)} files takes, as the median of {rounds} rounds:")
        ratios = []
        for name, bake in (("the command", _by_command), ("one process", _in_process)):
            with _quiet():
                took = _medians(bake, templates, work, rounds)
            ratios.append(took["ours"] / took["bare"])
            print(
                f"  {name}: {took['ours'] * 1000:.0f} ms; as many empty files {took['bare'] * 1000:.0f} ms, "
                f"with hooks that do nothing {took['hooks'] * 1000:.0f} ms; "
                f"ratios {ratios[-1]:.2f} and {took['ours'] / took['hooks']:.2f}"
            )
    missed = ratios[0] >= MOST
    print(f"  the command's ratio of {ratios[0]:.2f} {'misses' if missed else 'meets'} the target of under {MOST}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
