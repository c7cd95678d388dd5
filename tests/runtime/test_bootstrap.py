"""The ways in which `bootstrap` is started, and how it finds interpreter, runtime and handler."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
from tests.helpers.sandbox import BOOTSTRAP, SOURCE, Sandbox
from tests.helpers.scripted_api import INIT_ERROR, event

pytestmark = pytest.mark.own_interpreter

Variables = dict[str, str | None]
INTERPRETER = "STREAMING_RUNTIME_PYTHON"
SHOW = """
    import os, sys
    def handler(event, context):
        return [__name__, *sys.modules["streaming_runtime"].__path__, os.getcwd(), os.environ["LAMBDA_TASK_ROOT"]]
    def other(event, context):
        return "other"
    """
# The interpreter itself: one in a virtual environment finds its modules by the path with which it is called.
PYTHON = os.path.realpath(sys.executable)


def filled(environment: Variables, **values: str) -> Variables:
    """`environment` with `values` for the names in braces."""
    return {name: value and value.format(**values) for name, value in environment.items()}


def shown(sandbox: Sandbox, folder: Path | None = None) -> bytes:
    """What the handler `SHOW` returns if the right code runs in the right place."""
    folder = folder or sandbox.task
    return f'["app", "{SOURCE}/streaming_runtime", "{folder}", "{folder}"]'.encode()


STARTS: dict[str, tuple[tuple[str, ...], Variables, bytes | None]] = {
    "only _HANDLER": ((), {}, None),
    "handler as argument": (("app.other",), {"_HANDLER": None}, b'"other"'),
    "argument before _HANDLER": (("app.other",), {"_HANDLER": "nothing.at_all"}, b'"other"'),
    "handler in a folder": (("package/inner.handler",), {}, b'"inner"'),
    "exec wrapper": ((PYTHON, "/var/runtime/bootstrap.py"), {INTERPRETER: "/no/such/python"}, None),
    "exec wrapper without a script": ((PYTHON,), {INTERPRETER: None, "PATH": "/usr/bin:/bin"}, None),
    "handler and another argument": (("app.other", "/var/runtime/bootstrap.py"), {}, b'"other"'),
    "PYTHON is ignored": ((), {"PYTHON": "/no/such/python"}, None),
    "python3 on PATH": ((), {INTERPRETER: None, "PATH": "{bin}"}, None),
    "empty variable": ((), {INTERPRETER: "", "PATH": "{bin}"}, None),
    "variable with a name": ((), {INTERPRETER: "python3", "PATH": "{bin}"}, None),
    "variable with an absolute path": ((), {INTERPRETER: PYTHON}, None),
    "variable with a relative path": ((), {INTERPRETER: "bin/python3"}, None),
    "variable with a relative path with a dot": ((), {INTERPRETER: "./bin/python3"}, None),
    "relative PATH entry": ((), {INTERPRETER: None, "PATH": "bin:{bin}"}, None),
    "PYTHONSAFEPATH": ((), {"PYTHONSAFEPATH": "1"}, None),
    "CDPATH": ((), {"CDPATH": "/:{bin}"}, None),
}


@pytest.mark.parametrize(("arguments", "environment", "body"), STARTS.values(), ids=list(STARTS))
def test_start_finds_the_handler(
    sandbox: Sandbox, arguments: tuple[str, ...], environment: Variables, body: bytes | None
) -> None:
    path = _python_on_path(sandbox.task)
    (sandbox.task / "package").mkdir()
    (sandbox.task / "package" / "inner.py").write_text("def handler(e, c):\n    return 'inner'\n")
    ended = sandbox.run(
        SHOW,
        event(),
        command=(BOOTSTRAP, *arguments),
        environment=filled(environment, bin=path),
    )
    assert ended.bodies == [body or shown(sandbox)]


@pytest.mark.parametrize("name", ["python3", "./python3", "bin/python3"])
def test_relative_argument_is_the_handler(sandbox: Sandbox, name: str) -> None:
    """Only an absolute path is the interpreter that an exec wrapper gets."""
    path = _python_on_path(sandbox.task)
    ended = sandbox.run(
        SHOW, event(), command=(BOOTSTRAP, name, "/var/runtime/bootstrap.py"), environment={"PATH": path}
    )
    assert ended.targets == [INIT_ERROR]
    assert f"'{name}'" in json.loads(ended.bodies[0])["errorMessage"]


PREFERRED: dict[str, tuple[tuple[str, ...], Variables, bool]] = {
    "in the package": ((), {INTERPRETER: None}, True),
    "before a general PYTHON": ((), {INTERPRETER: None, "PYTHON": PYTHON}, True),
    "before PATH": (("app.handler",), {INTERPRETER: None, "PATH": "{bin}"}, True),
    "after the variable": ((), {INTERPRETER: PYTHON}, False),
    "after Lambda's own": ((PYTHON, "/var/runtime/bootstrap.py"), {INTERPRETER: None}, False),
}


@pytest.mark.parametrize(("arguments", "environment", "bundled"), PREFERRED.values(), ids=list(PREFERRED))
def test_bundled_interpreter_is_preferred(
    sandbox: Sandbox, arguments: tuple[str, ...], environment: Variables, bundled: bool
) -> None:
    path = _python_on_path(sandbox.task)
    folder = _project(sandbox, "package")
    python = folder / "python" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexport BUNDLED=1\nexec "{PYTHON}" "$@"\n')
    python.chmod(0o755)
    ended = sandbox.run(
        'import os\ndef handler(event, context):\n    return "BUNDLED" in os.environ\n',
        event(),
        command=(str(folder / "bootstrap"), *arguments),
        environment=filled(environment, bin=path),
    )
    assert ended.bodies == [b"true" if bundled else b"false"]


MISSING: dict[str, tuple[tuple[str, ...], Variables, str]] = {
    "absolute": ((), {INTERPRETER: "/no/such/python"}, "/no/such/python"),
    "relative": ((), {INTERPRETER: "no/such/python"}, "no/such/python"),
    "name": ((), {INTERPRETER: "no-such-python"}, "no-such-python"),
    "handler as argument": (("app.handler",), {INTERPRETER: "no-such-python"}, "no-such-python"),
    "exec wrapper": (("/no/such/python", "/var/runtime/bootstrap.py"), {}, "/no/such/python"),
    "empty PATH": ((), {INTERPRETER: None, "PATH": "/no/such/folder:{tools}"}, "python3"),
}


@pytest.mark.parametrize(("arguments", "environment", "named"), MISSING.values(), ids=list(MISSING))
def test_missing_interpreter_exits_127(
    sandbox: Sandbox, arguments: tuple[str, ...], environment: Variables, named: str
) -> None:
    tools = sandbox.task / "tools"
    tools.mkdir()
    ended = sandbox.run(
        SHOW,
        command=(BOOTSTRAP, *arguments),
        environment=filled(environment, tools=str(tools)),
    )
    assert ended.status == 127
    assert ended.errors == f"bootstrap: no Python interpreter '{named}'; put python3 on PATH or set {INTERPRETER}\n"
    assert (ended.requests, ended.output) == ([], "")


@pytest.mark.parametrize("shell", ["sh", "bash"])  # on Lambda, /bin/sh is bash
def test_non_executable_interpreter_is_named(sandbox: Sandbox, shell: str) -> None:
    ended = sandbox.run(SHOW, command=(shell, BOOTSTRAP), environment={INTERPRETER: "./app.py"})
    assert ended.status in {126, 127}
    assert "./app.py" in ended.errors


@pytest.mark.parametrize("name", ["src", "a folder with spaces", "-dash", "it's $HOME"])
@pytest.mark.parametrize("root", [None, ""], ids=["unset", "empty"])
def test_task_root_defaults_to_own_folder(sandbox: Sandbox, name: str, root: str | None) -> None:
    folder = _project(sandbox, name)
    ended = sandbox.run("", event(), command=(str(folder / "bootstrap"),), environment={"LAMBDA_TASK_ROOT": root})
    assert ended.bodies == [f'["{name}", "{folder}"]'.encode()]


@pytest.mark.parametrize(
    ("cwd", "command"),
    [
        ("src", ("./bootstrap",)),
        ("src", ("sh", "bootstrap")),
        (".", ("src/bootstrap",)),
        ("src/streaming_runtime", ("../bootstrap",)),
        (".", ("sh", "src/bootstrap")),
        (".", ("bash", "--posix", "src/bootstrap")),
    ],
)
@pytest.mark.parametrize("cdpath", [None, "/tmp:other"], ids=["", "CDPATH"])
def test_relative_bootstrap_path(sandbox: Sandbox, cwd: str, command: tuple[str, ...], cdpath: str | None) -> None:
    folder = _project(sandbox, "src")
    (sandbox.task / "other" / "src").mkdir(parents=True)  # CDPATH would lead there
    ended = sandbox.run(
        "",
        event(),
        command=command,
        cwd=sandbox.task / cwd,
        environment={"LAMBDA_TASK_ROOT": None, "CDPATH": cdpath},
    )
    assert ended.bodies == [f'["src", "{folder}"]'.encode()]


def test_function_modules_come_first(sandbox: Sandbox) -> None:
    packages = sandbox.task / "packages"
    packages.mkdir()
    for folder in (packages, sandbox.task):
        (folder / "helper.py").write_text(f"WHERE = {folder.name!r}\n")
    ended = sandbox.run(
        "import helper, sys\ndef handler(e, c):\n    return [helper.WHERE, sys.path[0], sys.path.count(sys.path[0])]\n",
        event(),
        environment={"PYTHONPATH": f"{packages}:{sandbox.task}"},
    )
    assert ended.bodies == [f'["{sandbox.task.name}", "{sandbox.task}", 1]'.encode()]


def test_path_files_and_runtime_dir_order(sandbox: Sandbox) -> None:
    provided, vendored = sandbox.task / "provided", sandbox.task / "vendored"
    for folder in (provided, vendored):
        folder.mkdir()
        (folder / f"{folder.name}_module.py").touch()
        (folder / "calendar.py").touch()
    (sandbox.task / "vendored.pth").write_text("vendored\n")
    code = """
        import calendar, provided_module, sys, vendored_module
        def handler(event, context):
            return [hasattr(calendar, "Calendar"), sys.path[-2:]]
        """
    ended = sandbox.run(code, event(), environment={"LAMBDA_RUNTIME_DIR": str(provided)})
    assert ended.bodies == [f'[true, ["{provided}", "{vendored}"]]'.encode()]


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing_child_runs_no_runtime(sandbox: Sandbox, method: str) -> None:
    code = f"""
        import multiprocessing, os
        def child(pipe):
            pipe.send(os.getppid())
        def handler(event, context):
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.get_context("{method}").Process(target=child, args=(theirs,))
            process.start()
            found = ours.poll(20) and ours.recv() > 0
            process.join()
            return [found, process.exitcode]
        """
    ended = sandbox.run(code, event())
    assert ended.bodies == [b"[true, 0]"]
    assert [request.method for request in ended.requests] == ["GET", "POST", "GET"]


def test_symlinked_bootstrap(sandbox: Sandbox) -> None:
    link = sandbox.task / "link"
    link.symlink_to(BOOTSTRAP)
    assert sandbox.run(SHOW, event(), command=(str(link),)).bodies == [shown(sandbox)]


def test_stdlib_named_modules_do_not_shadow(
    sandbox: Sandbox,
) -> None:
    folder = _project(sandbox, "src")
    for name in ("json", "logging", "select", "socket", "string", "token", "traceback"):
        (folder / f"{name}.py").write_text("raise RuntimeError('this is the function's own')\n")
    ended = sandbox.run(
        "", event(), command=(str(folder / "bootstrap"),), cwd=folder, environment={"LAMBDA_TASK_ROOT": None}
    )
    assert ended.bodies == [f'["src", "{folder}"]'.encode()]


def test_missing_task_root_fails_init(sandbox: Sandbox) -> None:
    ended = sandbox.run(SHOW, environment={"LAMBDA_TASK_ROOT": "/no/such/folder"})
    assert ended.status == 1
    assert [request.target for request in ended.requests] == ["/2018-06-01/runtime/init/error"]
    assert b"No such file or directory: '/no/such/folder'" in ended.requests[0].body


def test_bootstrap_execs_python(sandbox: Sandbox) -> None:
    running = sandbox.start("import os\ndef handler(e, c):\n    return os.getpid()\n", event())
    assert running.end().bodies == [b"%d" % running.process.pid]


def _python_on_path(task: Path) -> str:
    folder = task / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(PYTHON)
    return str(folder)


def _project(sandbox: Sandbox, name: str) -> Path:
    """A copy of the runtime in a folder with this name, with a handler that shows where it is."""
    folder = sandbox.task / name
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "app.py").write_text(
        "import os\ndef handler(e, c):\n    return [os.path.basename(os.getcwd()), os.environ['LAMBDA_TASK_ROOT']]\n"
    )
    return folder


# The script in AWS's documentation on wrappers, without its comments.
SAMPLE_WRAPPER = """#!/bin/bash
args=("$@")
extra_args=("-X" "importtime")
args=("${args[@]:0:$#-1}" "${extra_args[@]}" "${args[@]: -1}")
exec "${args[@]}"
"""
WRAPPERS: dict[str, tuple[str, bytes]] = {
    "AWS's sample": (SAMPLE_WRAPPER, b'["app", true, null, null]'),
    "another handler": (
        '#!/bin/sh\nexport ORIGINAL="$_HANDLER"\nexport _HANDLER=wrapped.handler\nexec "$@"\n',
        b'["wrapped", false, null, "app.handler"]',
    ),
    "shell that stays": ('#!/bin/sh\nset -- "$@"\n"$@" &\nwait $!\n', b'["app", false, null, null]'),
}
WRAPPED_STARTS: dict[str, tuple[str, ...]] = {
    "_HANDLER": (),
    "handler as argument": ("app.handler",),
    "exec wrapper": (PYTHON, "/var/runtime/bootstrap.py"),
}
WRAPPED = """
    import os, subprocess, sys
    def handler(event, context):
        names = ("STREAMING_RUNTIME_EXEC_WRAPPER", "ORIGINAL")
        child = subprocess.run(["/bin/sh", "-c", 'echo "${STREAMING_RUNTIME_EXEC_WRAPPER-unset}"'],
                               stdout=subprocess.PIPE).stdout
        assert child == b"unset\\n", child
        return [__name__, "importtime" in sys._xoptions, *(os.environ.get(name) for name in names)]
    """


@pytest.mark.parametrize("arguments", WRAPPED_STARTS.values(), ids=list(WRAPPED_STARTS))
@pytest.mark.parametrize(("script", "body"), WRAPPERS.values(), ids=list(WRAPPERS))
@pytest.mark.parametrize("name", ["wrapper", "a wrapper's $HOME"])
def test_nested_wrapper_starts_the_runtime(
    sandbox: Sandbox, script: str, body: bytes, arguments: tuple[str, ...], name: str
) -> None:
    wrapper = sandbox.script(name, script)
    (sandbox.task / "wrapped.py").write_text("import app\nWRAPPED = __name__\n" + textwrap.dedent(WRAPPED))
    ended = sandbox.run(
        WRAPPED, event(), command=(BOOTSTRAP, *arguments), environment={"STREAMING_RUNTIME_EXEC_WRAPPER": wrapper}
    )
    assert ended.bodies == [body]
    assert ("import time:" in ended.errors) == ("importtime" in script)


@pytest.mark.parametrize("arguments", WRAPPED_STARTS.values(), ids=list(WRAPPED_STARTS))
def test_nested_wrapper_on_path_gets_the_command(sandbox: Sandbox, arguments: tuple[str, ...]) -> None:
    sandbox.script("wrapper", '#!/bin/sh\nprintf "%s\\n" "$@" >&2\nexec "$@"\n')
    environment = {"STREAMING_RUNTIME_EXEC_WRAPPER": "wrapper", "PATH": f"{sandbox.task}:{os.defpath}"}
    ended = sandbox.run(WRAPPED, event(), command=(BOOTSTRAP, *arguments), environment=environment)
    python, *rest = ended.errors.splitlines()[:4]
    assert python == (arguments[0] if len(arguments) == 2 else sandbox.python)
    assert rest == ["-u", "-P", str(SOURCE / "streaming_runtime" / "__main__.py")]
    assert len(ended.bodies) == 1


def test_empty_wrapper_is_ignored(sandbox: Sandbox) -> None:
    ended = sandbox.run(WRAPPED, event(), environment={"STREAMING_RUNTIME_EXEC_WRAPPER": ""})
    assert ended.bodies == [b'["app", false, null, null]']


def test_wrapper_recursion_is_avoided(sandbox: Sandbox) -> None:
    ended = sandbox.run(WRAPPED, event(), environment={"STREAMING_RUNTIME_EXEC_WRAPPER": BOOTSTRAP})
    assert ended.bodies == [b'["app", false, null, null]']


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("arguments", WRAPPED_STARTS.values(), ids=list(WRAPPED_STARTS))
@pytest.mark.parametrize("wrapper", ["/no/such/wrapper", "no/such/wrapper", "no-such-wrapper"])
def test_missing_wrapper_exits_127(sandbox: Sandbox, wrapper: str, arguments: tuple[str, ...], shell: str) -> None:
    ended = sandbox.run(
        WRAPPED,
        event(),
        command=(shell, BOOTSTRAP, *arguments),
        environment={"STREAMING_RUNTIME_EXEC_WRAPPER": wrapper},
    )
    assert (ended.status, ended.requests, ended.output) == (127, [], "")
    message = f"bootstrap: STREAMING_RUNTIME_EXEC_WRAPPER names '{wrapper}', which cannot be executed\n"
    assert ended.errors == message


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_non_executable_wrapper_is_named(sandbox: Sandbox, kind: str, shell: str) -> None:
    path = sandbox.task / "wrapper"
    if kind == "file":
        path.write_text('#!/bin/sh\nexec "$@"\n')
    else:
        path.mkdir()
    environment = {"STREAMING_RUNTIME_EXEC_WRAPPER": str(path)}
    ended = sandbox.run(WRAPPED, event(), command=(shell, BOOTSTRAP), environment=environment)
    assert ended.status in {126, 127}
    assert str(path) in ended.errors
    assert ended.requests == []


def test_runtime_starts_as_module(sandbox: Sandbox) -> None:
    command = (sys.executable, "-m", "streaming_runtime")
    ended = sandbox.run(
        "def handler(e, c):\n    yield 'x'\n", event(), command=command, environment={"PYTHONPATH": str(SOURCE)}
    )
    assert ended.bodies == [b"x"]
