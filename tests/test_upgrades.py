"""A project takes up a later version of the template: with cruft, with plain cookiecutter, with `sam init`.

The commands of `docs/upgrading.md` run here as they stand there. Git takes the template's address for a repository of ours, whose tag
v1.1.0 is the template as it is and whose tag v1.0.0 is one that may have come before.
"""

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support import Bake, run

URL = "https://github.com/org/lambda-stream-template"
NAME = "{{cookiecutter.project_slug}}"
WIRE = "src/streaming_runtime/wire.py"
ENTERS = "\n" * 40  # someone who presses Enter all the way

Done = subprocess.CompletedProcess[str]


class User:
    """Someone with a home, a shell in a folder, and git."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        config = f'[user]\nname = A User\nemail = user@example.com\n[url "file://{origin}/"]\ninsteadOf = {URL[:-22]}\n'
        (self.home / ".gitconfig").write_text(config, encoding="utf-8")
        self.project = folder / "lambda-stream"

    def __call__(self, command: str, *, check: bool = True, answers: str = ENTERS) -> Done:
        """Runs a command in the project's folder, where there is one."""
        cwd = self.project if self.project.is_dir() else self.folder
        more = {"HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1", "COLUMNS": "200"}
        return run("sh", "-ec", f"unset COOKIECUTTER_CONFIG; {command}", cwd=cwd, check=check, answers=answers, **more)

    def commit(self) -> None:
        """Commits all that is in the project."""
        self("git init -q -b main; git add --all; git commit -q -m edits")

    def changed(self) -> dict[str, str]:
        """What git sees in the project that was not committed: path and state."""
        lines = self("git status --porcelain --untracked-files=all").stdout.splitlines()
        return {line[3:]: line[:2].strip() for line in lines}

    def read(self, path: str) -> str:
        return (self.project / path).read_text(encoding="utf-8")

    def edit(self, path: str, old: str, new: str) -> None:
        """Replaces a text that is there in one of the project's files, or makes a new one of it."""
        replace(self.project / path, old, new)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    assert old in text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(old, new) if old else text + new, encoding="utf-8")


def make_previous(template: Path) -> None:
    """Makes of the template one that came before it."""
    project = template / NAME
    # Then there was no option `observability`.
    options = json.loads((template / "cookiecutter.json").read_text(encoding="utf-8"))
    del options["observability"], options["__prompts__"]["observability"]
    (template / "cookiecutter.json").write_text(json.dumps(options, indent=4), encoding="utf-8")
    replace(template / "hooks/pre_gen_project.py", '    "observability": ("basic", "full"),\n', "")
    # A rule was laxer.
    replace(template / "hooks/pre_gen_project.py", '"memory", 128', '"memory", 64')
    for name in ("README.md", "template.yaml"):
        replace(project / name, "cookiecutter.observability", '"basic"')
    # The runtime, the function and the README said something else, a file had another name.
    replace(project / WIRE, "", "\nRETIRED = True\n")
    replace(project / "template.yaml", "Tracing: Active", "Tracing: PassThrough")
    replace(project / "README.md", "\n## Start\n", "\n## How to start\n")
    (project / "local/payload.py").rename(project / "local/retired.py")


@pytest.fixture(scope="session")
def origin(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the template's repository as a server has it: the tags v1.0.0 and v1.1.0, of which the last is main."""
    folder = tmp_path_factory.mktemp("origin")
    repository = folder / "lambda-stream-template.git"
    names = ("cookiecutter.json", "hooks", NAME, *(path.name for path in template.glob("*.py")))
    identity = ("-c", "user.name=A Maintainer", "-c", "user.email=maintainer@example.com")
    run("git", "init", "-q", "-b", "main", repository, cwd=folder)
    for version, change in (("v1.0.0", make_previous), ("v1.1.0", lambda _: None)):
        for name in names:
            shutil.rmtree(repository / name, ignore_errors=True)
            if (template / name).is_dir():
                shutil.copytree(template / name, repository / name)
            else:
                shutil.copy2(template / name, repository / name)
        change(repository)
        run("git", "add", "--all", cwd=repository)
        run("git", *identity, "commit", "-q", "-m", version, cwd=repository)
        run("git", *identity, "tag", version, cwd=repository)
    return folder


@pytest.fixture
def user(origin: Path, tmp_path: Path) -> User:
    return User(tmp_path, origin)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }


@pytest.mark.slow
def test_cruft_creates_what_cookiecutter_does_and_sees_no_change(user: User, project: Path) -> None:
    user(f"cruft create {URL}")
    created = files(user.project)
    state: dict[str, Any] = json.loads(created.pop(".cruft.json"))
    assert created == files(project)
    assert stat.S_IMODE((user.project / "src/bootstrap").stat().st_mode) == 0o755
    assert state["template"] == URL
    user("cruft check")
    # Nothing that the hook removed shows up.
    assert user("cruft diff --exit-code").stdout == ""
