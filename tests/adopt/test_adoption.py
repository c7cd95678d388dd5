"""The command as users run it: what it writes, asks, refuses and takes back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.adopt.conftest import Adopt, lay_out
from tests.adopt.starters import FUNCTIONS, STARTERS
from tests.helpers.support import files, run

HELLO = "HelloWorldFunction"


def everything(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, and its empty folders too."""
    empty = {str(path.relative_to(folder)): b"" for path in folder.rglob("*") if path.is_dir()}
    return {**empty, **files(folder)}


@pytest.mark.slow
def test_folder(adopt: Adopt, hello: Path, template: Path) -> None:
    before = everything(hello)
    done = adopt(hello, function=HELLO)
    assert "+++ b/template.yaml\n" in done.stdout
    assert f"{HELLO} streams from its next deployment on" in done.stdout
    after = everything(hello)
    assert {name: content for name, content in after.items() if not name.startswith("streaming")} == {
        **before,
        "template.yaml": after["template.yaml"],
    }
    project = template / "{{cookiecutter.project_slug}}"
    for part in ("runtime", "local"):
        assert files(hello / "streaming" / part) == files(project / part)
    assert os.access(hello / "streaming" / "runtime" / "bootstrap", os.X_OK)
    own = {"README.md", "Makefile", "dev.py", ".gitignore", "adopted.json", "runtime", "local"}
    assert {path.name for path in (hello / "streaming").iterdir()} == own


@pytest.mark.slow
@pytest.mark.parametrize("starter", STARTERS)
def test_twice_and_back(adopt: Adopt, tmp_path: Path, starter: str) -> None:
    application = lay_out(starter, tmp_path / "app")
    before = everything(application)
    for function in FUNCTIONS[starter]:
        adopt(application, function=function)
        after = everything(application)
        assert "Nothing to do" in adopt(application, function=function).stdout
        assert everything(application) == after
    for function in FUNCTIONS[starter]:
        adopt(application, function=function, undo="yes")
        assert "Nothing to do" in adopt(application, function=function, undo="yes").stdout
    assert everything(application) == before


@pytest.mark.slow
@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize("url_auth", ["AWS_IAM", "NONE"])
def test_diff_is_small(adopt: Adopt, tmp_path: Path, starter: str, url_auth: str) -> None:
    application = lay_out(starter, tmp_path / "app")
    for function in FUNCTIONS[starter]:
        diff = adopt(application, function=function, url_auth=url_auth).stdout.splitlines()
        added = [line for line in diff if line.startswith("+") and not line.startswith("+++")]
        removed = [line for line in diff if line.startswith("-") and not line.startswith("---")]
        # Where a wrapper is chained, and where a list of layers is written in one line.
        assert len(removed) == (starter == "several")
        assert len(added) <= 25


@pytest.mark.slow
def test_question(adopt: Adopt, hello: Path) -> None:
    before = everything(hello)
    declined = adopt(hello, check=False, function=HELLO, prompted="\n\n\n\n\nn\n")
    assert declined.returncode == 1
    assert "+      Layers:" in declined.stdout
    assert "Nothing was changed" in declined.stdout
    unanswered = adopt(hello, check=False, function=HELLO, prompted="\n\n\n\n\n")
    assert unanswered.returncode == 1
    assert everything(hello) == before
    adopt(hello, function=HELLO, prompted="\n\n\n\n\ny\n")
    assert (hello / "streaming").is_dir()


def test_refusal_writes_nothing(adopt: Adopt, hello: Path) -> None:
    before = everything(hello)
    refused = adopt(hello, check=False, function="Missing")
    assert refused.returncode == 1
    assert "It has: HelloWorldFunction" in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr
    assert everything(hello) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "answer", "reason"),
    [
        ("function", "{{ 1 }}", "must not hold"),
        ("function", "a/../b", "the logical ID of a function"),
        ("folder", "../up", "a folder's name"),
        ("folder", "a\nb", "a folder's name"),
        ("template_file", "missing.yaml", "has no missing.yaml"),
    ],
)
def test_hostile_answers(adopt: Adopt, hello: Path, option: str, answer: str, reason: str) -> None:
    before = everything(hello.parent)
    refused = adopt(hello, check=False, **{"function": HELLO, option: answer})
    assert refused.returncode == 1
    assert reason in refused.stdout
    assert everything(hello.parent) == before


@pytest.mark.slow
def test_folder_of_the_user_is_kept(adopt: Adopt, hello: Path) -> None:
    (hello / "streaming").mkdir()
    (hello / "streaming" / "mine.py").write_text("mine")
    before = everything(hello)
    refused = adopt(hello, check=False, function=HELLO)
    assert refused.returncode == 1
    assert "streaming/ exists and is not from this template" in refused.stdout
    assert everything(hello) == before
    adopt(hello, function=HELLO, folder="streams")
    assert "ContentUri: streams/runtime\n" in (hello / "template.yaml").read_text()


@pytest.mark.slow
def test_edited_file_is_kept(adopt: Adopt, hello: Path) -> None:
    adopt(hello, function=HELLO)
    edited = hello / "streaming" / "runtime" / "bootstrap"
    edited.write_text("mine")
    refused = adopt(hello, check=False, function=HELLO)
    assert refused.returncode == 1
    assert "runtime/bootstrap" in refused.stdout
    done = adopt(hello, function=HELLO, undo="yes")
    assert "streaming/ was kept, since these files are yours: runtime/bootstrap" in done.stdout
    assert edited.read_text() == "mine"


@pytest.mark.slow
def test_newer_version_updates_the_folder(adopt: Adopt, hello: Path) -> None:
    adopt(hello, function=HELLO)
    manifest = hello / "streaming" / "adopted.json"
    content = json.loads(manifest.read_text())
    # As if an older version had written these: one that has changed since, and one that is gone.
    for name in ("README.md", "old.py"):
        (hello / "streaming" / name).write_text("old")
        content["files"][name] = "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"
    manifest.write_text(json.dumps(content))
    done = adopt(hello, function=HELLO)
    assert "streaming/ is updated: 2 files" in done.stdout
    assert "was added by the" in (hello / "streaming" / "README.md").read_text()
    assert not (hello / "streaming" / "old.py").exists()


@pytest.mark.slow
def test_caches_go_with_the_folder(adopt: Adopt, hello: Path) -> None:
    adopt(hello, function=HELLO)
    for name in ("local/__pycache__/x.pyc", ".pycache/a/b.pyc"):
        (hello / "streaming" / name).parent.mkdir(parents=True, exist_ok=True)
        (hello / "streaming" / name).touch()
    adopt(hello, function=HELLO, undo="yes")
    assert not (hello / "streaming").exists()


@pytest.mark.slow
def test_undo_refuses_while_something_refers_to_the_url(adopt: Adopt, hello: Path) -> None:
    adopt(hello, function=HELLO)
    template = hello / "template.yaml"
    template.write_text(template.read_text() + "  Mine:\n    Value: !Sub ${HelloWorldFunctionUrl.FunctionUrl}x\n")
    before = everything(hello)
    refused = adopt(hello, check=False, function=HELLO, undo="yes")
    assert refused.returncode == 1
    assert "refer to HelloWorldFunctionUrl" in refused.stdout
    assert everything(hello) == before


@pytest.mark.slow
def test_undo_of_an_unknown_function(adopt: Adopt, hello: Path) -> None:
    adopt(hello, function=HELLO)
    refused = adopt(hello, check=False, function="Hello", undo="yes")
    assert refused.returncode == 1
    assert f"Adopted here: {HELLO}" in refused.stdout


@pytest.mark.slow
def test_json_gets_a_patch(adopt: Adopt, hello: Path) -> None:
    template = hello / "template.json"
    (hello / "template.yaml").unlink()
    function = {"Type": "AWS::Serverless::Function", "Properties": {"CodeUri": "hello_world", "Runtime": "python3.13"}}
    before = json.dumps({"Resources": {HELLO: function}}, indent=2)
    template.write_text(before)
    done = adopt(hello, function=HELLO)
    assert template.read_text() == before
    assert f"patch -p1 < streaming/{HELLO}.patch" in done.stdout
    run("git", "apply", f"streaming/{HELLO}.patch", cwd=hello)
    resources = json.loads(template.read_text())["Resources"]
    assert resources[f"{HELLO}Url"]["Properties"]["InvokeMode"] == "RESPONSE_STREAM"
    assert resources[HELLO]["Properties"]["Layers"] == [{"Ref": "StreamingRuntimeLayer"}]
    assert "Nothing to do" in adopt(hello, function=HELLO).stdout
    refused = adopt(hello, check=False, function=HELLO, undo="yes")
    assert f"--reverse < streaming/{HELLO}.patch" in refused.stdout
    run("git", "apply", "--reverse", f"streaming/{HELLO}.patch", cwd=hello)
    assert template.read_text() == before


@pytest.mark.slow
def test_template_elsewhere(adopt: Adopt, hello: Path) -> None:
    """The layer's path is relative to the template; a link and a mode of the file stay."""
    (hello / "deploy").mkdir()
    shutil.move(hello / "template.yaml", hello / "deploy" / "app.yaml")
    (hello / "deploy" / "app.yaml").chmod(0o600)
    (hello / "link.yaml").symlink_to("deploy/app.yaml")
    adopt(hello, function=HELLO, template_file="link.yaml", undo="no")
    assert (hello / "link.yaml").is_symlink()
    assert (hello / "deploy" / "app.yaml").stat().st_mode & 0o777 == 0o600
    refused = adopt(hello, check=False, function=HELLO, template_file="deploy/app.yaml")
    assert "belongs to link.yaml, not to deploy/app.yaml" in refused.stdout
    adopt(hello, function=HELLO, template_file="link.yaml", undo="yes")
    adopt(hello, function=HELLO, template_file="deploy/app.yaml")
    assert 'ContentUri: "../streaming/runtime"\n' in (hello / "deploy" / "app.yaml").read_text()


@pytest.mark.slow
def test_output_folder(adopt: Adopt, hello: Path, template: Path, tmp_path: Path) -> None:
    """The application may be named by `-o`, as by programs that call cookiecutter."""
    command = ("cookiecutter", template, "--default-config", "--directory", "adopt", "--no-input", "-o", hello)
    run(*command, f"function={HELLO}", cwd=tmp_path, HOME=str(tmp_path))
    assert (hello / "streaming" / "adopted.json").is_file()


@pytest.mark.slow
def test_hooks_are_needed(hello: Path, template: Path) -> None:
    before = everything(hello)
    options = ("--default-config", "--directory", "adopt", "--no-input", "--accept-hooks", "no")
    refused = run("cookiecutter", template, *options, f"function={HELLO}", cwd=hello, check=False)
    assert refused.returncode == 1
    assert everything(hello) == before
