"""Upgrading a project to a later version of the template: with cruft, with plain cookiecutter, with `sam init`.

The commands of `docs/upgrading.md` run here verbatim. Git is configured to find the template's address in a local
repository, whose tag v1.1.0 is the current template and whose tag v1.0.0 is a possible earlier version. In that version
the runtime is in `src/`, beside the user's code.
"""

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hooks.post_gen_project import EXAMPLES, OPTIONAL_PATHS
from tests.helpers.support import OPTIONS, ROOT, TEMPLATE, defaults, files, run

URL = "https://github.com/org/lambda-stream-template"
NAME = TEMPLATE.name
WIRE = "runtime/streaming_runtime/wire.py"
ENTERS = "\n" * 40  # the defaults
DOCUMENT = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
CREATE = f"cruft create {URL} --checkout v1.0.0"
UPDATE = "cruft update --checkout v1.1.0 --skip-apply-ask"

# Of an earlier version: its vendored files in the user's folder.
RETIRED = ("src/bootstrap", "src/streaming_runtime")
RUNTIME = [
    str(path.relative_to(TEMPLATE / "runtime"))
    for path in (TEMPLATE / "runtime").rglob("*")
    if path.is_file() and not {"__pycache__", "front_door"} & {*path.parts}  # only with url_auth=jwt
]
MOVED = {f"src/{path}": "D" for path in RUNTIME} | {f"runtime/{path}": "A" for path in RUNTIME}
# What removes them where the template is generated over a project.
REMOVE = "git rm -r --quiet src/bootstrap src/streaming_runtime\n"

Done = subprocess.CompletedProcess[str]


class User:
    """A user with a home, a shell in a folder, and git."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.folder = folder
        self.origin = origin
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        config = f'[user]\nname = A User\nemail = user@example.com\n[url "file://{origin}/"]\ninsteadOf = {URL[:-22]}\n'
        (self.home / ".gitconfig").write_text(config, encoding="utf-8")
        self.project = folder / "lambda-stream"

    def __call__(self, command: str, *, check: bool = True, answers: str = ENTERS) -> Done:
        """Run a command in the project's folder if it exists, otherwise in the folder above."""
        cwd = self.project if self.project.is_dir() else self.folder
        more = {"HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1", "COLUMNS": "200"}
        more["PYTHONDONTWRITEBYTECODE"] = ""  # compiling all packages each time takes twice as long
        return run("sh", "-ec", f"unset COOKIECUTTER_CONFIG; {command}", cwd=cwd, check=check, answers=answers, **more)

    def commit(self) -> None:
        """Commit everything in the project."""
        self("git init -q -b main; git add --all; git commit -q -m edits")

    def changed(self) -> dict[str, str]:
        """Return git's state of each path with uncommitted changes."""
        lines = self("git status --porcelain --no-renames --untracked-files=all").stdout.splitlines()
        return {line[3:]: line[:2].strip() for line in lines}

    def read(self, path: str) -> str:
        return (self.project / path).read_text(encoding="utf-8")

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text in one of the project's files, or append to it or create it."""
        replace(self.project / path, old, new)


def block(beginning: str) -> str:
    """Return the block of commands in the document with this beginning."""
    [found] = [commands for commands in BLOCKS if commands.startswith(beginning)]
    return str(found)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    assert old in text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(old, new) if old else text + new, encoding="utf-8")


def make_previous(template: Path) -> None:
    """Turn the template into an earlier version."""
    project = template / NAME
    # The option `observability` did not exist.
    options = json.loads((template / "cookiecutter.json").read_text(encoding="utf-8"))
    del options["observability"], options["__prompts__"]["observability"]
    (template / "cookiecutter.json").write_text(json.dumps(options, indent=4), encoding="utf-8")
    choices = f'    "observability": ({", ".join(map(json.dumps, OPTIONS["observability"]))}),\n'
    replace(template / "hooks/pre_gen_project.py", choices, "")
    for hook in ("pre_gen_project", "post_gen_project"):
        replace(
            template / f"hooks/{hook}.py", '    ({"observability": "opentelemetry"}, "tests/test_traces.py"),\n', ""
        )
    post = template / "hooks/post_gen_project.py"
    replace(post, "for option, answer, lines in REQUIREMENTS:", "for option, answer, lines in ():")
    replace(post, 'given["observability"]', '"basic"')
    (project / "tests/test_traces.py").unlink()
    # A rule allowed more.
    replace(template / "hooks/pre_gen_project.py", '"memory", AWS["memory"]', '"memory", AWS["memory"] | {"least": 64}')
    for name in ("README.md", "template.yaml"):
        replace(project / name, "cookiecutter.observability", '"basic"')
    # The filter `quoted` had another name.
    replace(template / "filters.py", '"quoted": quoted', '"scalar": quoted')
    parts = [template / "templates/resources" / name for name in ("canary.yaml", "observability.yaml")]
    for path in [*project.glob("*.toml"), project / "template.yaml", *parts]:
        replace(path, "| quoted", "| scalar")
    # The runtime, the function, the README and an included part of it had other contents; one file had another name,
    # and another one no longer exists.
    replace(project / WIRE, "", "\nRETIRED = True\n")
    replace(project / "template.yaml", "Tracing: Active", "Tracing: PassThrough")
    replace(project / "README.md", "\n## Start\n", "\n## How to start\n")
    replace(template / "templates/readme/pipeline.md", "## The pipeline\n", "## How it is deployed\n")
    (project / "local/probe.py").rename(project / "local/retired.py")
    replace(project / "local/gone.py", "", "GONE = True\n")
    # The runtime was in src/.
    for path in map(Path, RETIRED):
        (project / "runtime" / path.name).rename(project / path)
    for path in (template / "cookiecutter.json", project / "Makefile"):
        replace(path, "runtime/bootstrap", "src/bootstrap")


@pytest.fixture(scope="session")
def origin(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the template's repository and its tags v1.0.0 and v1.1.0, which is main."""
    folder = tmp_path_factory.mktemp("origin")
    repository = folder / "lambda-stream-template.git"
    names = ("cookiecutter.json", "hooks", "templates", NAME, *(path.name for path in template.glob("*.py")))
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


@pytest.fixture(scope="session")
def created(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that cruft created from the earlier version, with answers that cause a warning."""
    user = User(tmp_path_factory.mktemp("created"), origin)
    done = user(block("cruft create"), answers="Flüsse\nlambda-stream\nEin Fluß 🚀\nmx-central-1\n" + ENTERS)
    assert "Warning: `region`" in done.stderr
    assert "make dev" in done.stdout
    user.commit()
    return user.project


@pytest.fixture(scope="session")
def baked(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same from plain cookiecutter, with the default answers, beside the home that has them."""
    user = User(tmp_path_factory.mktemp("baked"), origin)
    user(block("cookiecutter gh:org/lambda-stream-template --checkout v1.0.0"))
    return user.project


@pytest.fixture
def owner(user: User, created: Path) -> User:
    """Return a user who has that project."""
    shutil.copytree(created, user.project)
    return user


@pytest.fixture
def replayer(user: User, baked: Path) -> User:
    """Return a user who has a project from plain cookiecutter and the earlier version."""
    shutil.rmtree(user.home)
    shutil.copytree(baked.parent / "home", user.home)
    shutil.copytree(baked, user.project)
    return user


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
def test_cruft_create_matches_cookiecutter(user: User, project: Path) -> None:
    user(f"cruft create {URL}")
    made = files(user.project)
    state: dict[str, Any] = json.loads(made.pop(".cruft.json"))
    assert made == files(project)
    assert mode(user.project / "runtime/bootstrap") == 0o755
    assert state["template"] == URL
    user("cruft check")
    # Neither the paths that the hook removed nor its output appear.
    assert user("cruft diff --exit-code").stdout == ""


@pytest.mark.slow
def test_cruft_update_keeps_edits(owner: User) -> None:
    owner.edit("src/app.py", "count: int = 10", "count: int = 20")
    owner.edit("template.yaml", "MemorySize: 512", "MemorySize: 1024")  # so close to a change that only a merge works
    owner("git rm -q events/post.json")
    own = ("Dockerfile", "events/mine.json", "examples/mine.txt")
    for path in own:
        owner.edit(path, "", "{}")
    owner.commit()
    before = files(owner.project)

    assert owner(block("cruft check"), check=False).returncode == 1
    done = owner(block("cruft update"))
    assert "make dev" not in done.stdout
    changed = dict.fromkeys([".cruft.json", "Makefile", "README.md", "template.yaml"], "M")
    renamed = {"local/probe.py": "A", "local/retired.py": "D", "local/gone.py": "D"}
    assert owner.changed() == {**changed, **renamed, **MOVED}
    assert [path for path in RETIRED if (owner.project / path).exists()] == []

    after = files(owner.project)
    assert {path: after[path] for path in (*own, "src/app.py")} == {path: before[path] for path in (*own, "src/app.py")}
    function = owner.read("template.yaml")
    assert "MemorySize: 1024" in function
    assert "Tracing: Active" in function
    assert 'Description: "Ein Fluß 🚀"' in function
    assert "RETIRED" not in owner.read(WIRE)
    for heading in ("Start", "The pipeline"):
        assert f"\n## {heading}\n" in owner.read("README.md")
    assert mode(owner.project / "runtime/bootstrap") == 0o755
    assert json.loads(owner.read(".cruft.json"))["context"]["cookiecutter"]["observability"] == "basic"
    owner(block("cruft check"))
    assert re.findall(r"^\+\+\+ \S+?/(.*)$", done.stdout, re.MULTILINE) == ["src/app.py", "template.yaml"]


@pytest.mark.slow
def test_cruft_marks_conflict(owner: User) -> None:
    owner.edit("template.yaml", "Tracing: PassThrough", "Tracing: Disabled")
    owner.commit()
    owner(UPDATE)
    assert owner.changed()["template.yaml"] == "UU"
    conflict = owner.read("template.yaml")
    assert re.search(r"<<<<<<< .*\n +Tracing: Disabled\n=======\n +Tracing: Active\n>>>>>>> ", conflict)
    assert owner.changed()["README.md"] == "M"
    owner("git restore --staged --worktree .")
    assert owner.changed() == {}


@pytest.mark.slow
def test_cruft_writes_rejects(owner: User) -> None:
    owner.edit("template.yaml", "Tracing: PassThrough", "Tracing: Disabled")
    owner.edit("local/retired.py", "", "\nMINE = 1\n")
    owner.edit("local/gone.py", "", "MINE = 3\n")
    owner.edit("local/probe.py", "", "MINE = 2\n")
    shutil.rmtree(owner.project / ".git")  # so that git does not have the generated files
    owner.commit()
    done = owner(block("cruft update"))
    changed = dict.fromkeys([".cruft.json", "Makefile", "README.md"], "M")
    moved = {path: "??" if state == "A" else state for path, state in MOVED.items()}
    assert owner.changed() == {**changed, **moved, "template.yaml.rej": "??"}
    assert "+      Tracing: Active\n" in owner.read("template.yaml.rej")
    # These have no .rej file. The user's stay, and the output names them.
    assert "local/probe.py: already exists in working directory" in done.stderr
    assert "local/gone.py: patch does not apply" in done.stderr
    assert owner.read("local/gone.py").endswith("MINE = 3\n")
    assert owner.read("local/retired.py").endswith("MINE = 1\n")
    assert owner.read("local/probe.py") == "MINE = 2\n"
    differences = done.stdout
    assert "-MINE = 2\n" in differences
    assert "+      Tracing: Active\n" in differences


@pytest.mark.slow
def test_cruft_refuses_bad_answers(owner: User) -> None:
    empty = User(owner.folder / "empty", owner.origin)
    done = empty(CREATE + """ --no-input --extra-context '{"memory": "0512", "project_slug": "../x"}'""", check=False)
    assert done.returncode == 1
    for shown in ("`memory` must be", "`project_slug` must be"):
        assert shown in done.stderr
    assert [path.name for path in empty.folder.iterdir()] == ["home"]

    # An answer that the earlier version allowed.
    owner.edit(".cruft.json", '"memory": "512"', '"memory": "64"')
    owner.edit("template.yaml", "MemorySize: 512", "MemorySize: 64")
    owner.commit()
    done = owner(UPDATE, check=False)
    assert done.returncode == 1
    assert "`memory` must be a whole number of MB from 128 to 10240" in done.stderr
    assert owner.changed() == {}
    owner(UPDATE + """ --variables-to-update '{"memory": "128", "observability": "full"}'""")
    assert "MemorySize: 128" in owner.read("template.yaml")
    assert "AWS::CloudWatch::Dashboard" in owner.read("template.yaml")


@pytest.mark.slow
def test_cruft_links_existing_project(owner: User) -> None:
    (owner.project / ".cruft.json").unlink()
    owner(block("cruft link"))
    owner.commit()
    owner(UPDATE)
    assert owner.changed()["local/retired.py"] == "D"


@pytest.mark.slow
def test_git_merges_a_later_version(replayer: User) -> None:
    user = replayer
    user(block("cp "))
    user.edit("src/app.py", "count: int = 10", "count: int = 20")
    user.edit("template.yaml", "MemorySize: 512", "MemorySize: 1024")
    for path in ("Dockerfile", "examples/mine.txt"):
        user.edit(path, "", "{}")
    user.commit()
    user(block("git switch"), answers="y\n2\n")  # the second choice of the new option
    assert user.changed() == {}
    assert "count: int = 20" in user.read("src/app.py")
    for part in ("MemorySize: 1024", "Tracing: Active", "AWS::CloudWatch::Dashboard"):
        assert part in user.read("template.yaml")
    for path in ("local/retired.py", "local/gone.py", *RETIRED):
        assert not (user.project / path).exists()
    assert (user.project / "local/probe.py").exists()
    assert (user.project / "examples/mine.txt").exists()
    assert mode(user.project / "runtime/bootstrap") == 0o755
    assert json.loads(user.read("answers.json"))["cookiecutter"]["observability"] == "full"


@pytest.mark.slow
def test_replay_over_project(replayer: User) -> None:
    replayer.edit("src/app.py", "count: int = 10", "count: int = 20")
    replayer.edit("events/mine.json", "", "{}")
    replayer.commit()
    done = replayer(block("cookiecutter gh:org/lambda-stream-template --checkout v1.1.0 --replay "))
    changed = dict.fromkeys(["Makefile", "README.md", "src/app.py", "template.yaml"], "M")
    added = {f"runtime/{path}": "??" for path in RUNTIME}
    assert replayer.changed() == {**changed, **added, "local/probe.py": "??"}
    # The files of the earlier layout are still there, and the output says how to remove them.
    assert f"Remove them: {REMOVE}" in done.stderr
    replayer(REMOVE)
    assert [path for path in RETIRED if (replayer.project / path).exists()] == []
    assert mode(replayer.project / "runtime/bootstrap") == 0o755
    assert replayer.read("events/mine.json") == "{}"
    assert "count: int = 10" in replayer.read("src/app.py")  # as the document says


@pytest.mark.slow
def test_replay_refuses_to_delete_user_files(replayer: User) -> None:
    removed = {path: None for chosen, path in OPTIONAL_PATHS if not chosen.items() <= defaults().items()}
    own = [f"{EXAMPLES}/mine.txt", *removed]
    for path in own:
        replayer.edit(path, "", "{}")
    replayer.commit()
    replay = block("cookiecutter gh:org/lambda-stream-template --checkout v1.1.0 --replay ")
    done = replayer(replay, check=False)
    assert done.returncode == 1
    for path in own:
        assert f"  {path.removesuffix('/mine.txt')}. Rename it, generate, and rename it back\n" in done.stderr
    assert replayer.changed() == {}

    answers = replayer.home / ".cookiecutter_replay/lambda-stream-template.json"
    replace(answers, '"memory": "512"', '"memory": "64"')
    done = replayer(replay, check=False)
    assert done.returncode == 1
    assert "`memory` must be a whole number of MB from 128 to 10240" in done.stderr
    assert replayer.changed() == {}


@pytest.mark.slow
def test_answers_file_asks_nothing(replayer: User) -> None:
    [answers] = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    replayer.edit("answers.yaml", "", answers)
    replayer.commit()
    replayer(block("cookiecutter gh:org/lambda-stream-template --checkout v1.1.0 --config-file "), answers="")
    assert "MemorySize: 1024" in replayer.read("template.yaml")
    assert 'Description: "Tokens as they come"' in replayer.read("template.yaml")
    assert replayer.changed()["local/probe.py"] == "??"


@pytest.mark.slow
def test_sam_init_from_main_or_tag(user: User) -> None:
    user(block("git clone"))
    assert "## How to start" in user.read("README.md")
    # If the name is not its own slug, SAM writes a file to a folder with that name.
    user("cd ..; sam init --location gh:org/lambda-stream-template --no-input --name 'My Stream'")
    assert "\n## Start\n" in (user.folder / "my-stream" / "README.md").read_text(encoding="utf-8")
    assert set(files(user.folder / "My Stream")) == {"samconfig.toml"}


def test_every_documented_command_runs() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    ran = {block(beginning) for beginning in re.findall(r'block\("(.*?)"\)', source)}
    assert ran | {REMOVE} == {*BLOCKS, REMOVE}
