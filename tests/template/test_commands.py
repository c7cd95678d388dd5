"""What the commands of a project print where something is missing, or where the user ends them."""

import os
import pty
import re
import shutil
from pathlib import Path

import pytest
from tests.helpers.support import OWN_PYTHON, Bake, run, user_environment


def interrupt(command: list[str], folder: Path, until: bytes) -> tuple[str, int]:
    """Run a command on a terminal until it prints a text, and press Ctrl-C; return what it printed, and its status."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        os.execvpe(command[0], command, user_environment())
    printed, pressed = b"", False
    while True:
        try:
            printed += os.read(terminal, 65536)
        except OSError:  # the terminal's other end was closed
            break
        if until in printed and not pressed:
            os.write(terminal, b"\x03")
            pressed = True
    os.close(terminal)
    return printed.decode(errors="replace"), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "until"),
    [(["dev", "PORT=0"], b"Press Ctrl-C"), (["invoke"], b"1 of 10")],
    ids=["dev", "invoke"],
)
def test_ctrl_c_is_no_error(command: list[str], until: bytes, bake: Bake, tmp_path: Path) -> None:
    project = shutil.copytree(bake(), tmp_path / "project")
    printed, status = interrupt(["make", *command], project, until)
    assert printed.endswith("^C")
    assert "make:" not in printed
    assert status in (0, -2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "line"),
    [
        ("managed", "Runtime: python3."),
        ("provided.al2023", 'PythonVersion: "3.'),
        ("container", 'PYTHON_VERSION: "3.'),
    ],
)
def test_python_of_the_template(runtime: str, line: str, bake: Bake, tmp_path: Path) -> None:
    """Or the nearest one, and a line that says so; a version from the template's future is not on any machine."""
    project = shutil.copytree(bake(runtime=runtime), tmp_path / "project")
    template = project / "template.yaml"
    text = template.read_text(encoding="utf-8")
    for version in (OWN_PYTHON, "3.19"):
        template.write_text(re.sub(re.escape(line) + r"\d+", line[:-2] + version, text), encoding="utf-8")
        stamp = f".venv/for-python-{version}"
        done = run("make", stamp, cwd=project, UV_PYTHON_DOWNLOADS="never")
        made = run(project / ".venv" / "bin" / "python", "--version", cwd=project).stdout.split()[1]
        if version == OWN_PYTHON:
            assert made.startswith(f"{version}.")
            assert "not available" not in done.stderr
        else:
            said = "Python 3.19, which Lambda will run, is not available here. Using Python 3."
            assert said + made.split(".")[1] in done.stderr
        assert (project / stamp).exists()


@pytest.mark.slow
def test_invoke_of_mcp_shows_an_answer(bake: Bake) -> None:
    done = run("make", "invoke", cwd=bake(example="mcp"))
    assert '"result"' in done.stdout
    assert "POST /mcp  200  first byte " in done.stderr


@pytest.mark.slow
def test_check_without_sam(bake: Bake, tmp_path: Path) -> None:
    """The missing tool is named last, after all other parts have run."""
    project = shutil.copytree(bake(), tmp_path / "project")
    for path in (project / "tests").glob("test_*.py"):
        path.unlink()
    (project / "tests" / "test_one.py").write_text("def test_one() -> None:\n    pass\n", encoding="utf-8")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("awk", "git", "grep", "head", "make", "python3", "rm", "sh", "test", "touch", "uv"):
        if found := shutil.which(name, path=user_environment()["PATH"]):
            (tools / name).symlink_to(found)
    done = run("make", "check", cwd=project, check=False, PATH=str(tools))
    assert done.returncode == 2
    assert "All checks passed!" in done.stdout
    assert "Success: no issues found" in done.stdout
    assert "1 passed" in done.stdout
    assert "The SAM CLI is not installed: uv tool install aws-sam-cli" in done.stderr.splitlines()[-4:]


@pytest.mark.parametrize("path", ["Makefile", "interpreter.sh", "runtime/bootstrap"])
def test_template_with_windows_line_endings(path: str, template: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(template, tmp_path / "template")
    file = copy / "{{cookiecutter.project_slug}}" / path
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    command = ("cookiecutter", "--default-config", "--no-input", "-o", tmp_path / "out", copy)
    done = run(*command, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert re.search(rf"Nothing was generated: .*/{path} has Windows line endings", done.stdout)
    assert not (tmp_path / "out").exists()
    application = tmp_path / "application"
    application.mkdir()
    (application / "template.yaml").write_text("Resources: {}\n", encoding="utf-8")
    if path == "runtime/bootstrap":
        adopted = run(*command[:3], copy, "--directory", "adopt", cwd=application, check=False)
        assert "has Windows line endings" in adopted.stdout + adopted.stderr
