"""The ways in which `bootstrap` is started, and how it finds interpreter, runtime and handler."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
from tests.runtime.conftest import SOURCE, Sandbox, event

pytestmark = pytest.mark.own_interpreter

BOOTSTRAP = str(SOURCE / "bootstrap")
SHOW = """
    import os, sys
    def handler(event, context):
        return [__name__, *sys.modules["streaming_runtime"].__path__, os.getcwd(), os.environ["LAMBDA_TASK_ROOT"]]
    def other(event, context):
        return "other"
    """
# The interpreter as such: one in a virtual environment finds its modules by the path it is called by.
PYTHON = os.path.realpath(sys.executable)


def shown(sandbox: Sandbox, folder: Path | None = None) -> bytes:
    folder = folder or sandbox.task
    return f'["app", "{SOURCE}/streaming_runtime", "{folder}", "{folder}"]'.encode()


STARTS: dict[str, tuple[tuple[str, ...], dict[str, str | None], bytes | None]] = {
    "_HANDLER alone": ((), {}, None),
    "handler as argument": (("app.other",), {"_HANDLER": None}, b'"other"'),
    "argument before _HANDLER": (("app.other",), {"_HANDLER": "nothing.at_all"}, b'"other"'),
    "handler in a folder": (("package/inner.handler",), {}, b'"inner"'),
    "exec wrapper": ((PYTHON, "/var/runtime/bootstrap.py"), {"STREAMING_RUNTIME_PYTHON": "/no/such/python"}, None),
    "exec wrapper, interpreter alone": ((PYTHON,), {"STREAMING_RUNTIME_PYTHON": None, "PATH": "/usr/bin:/bin"}, None),
    "python3 on PATH": ((), {"STREAMING_RUNTIME_PYTHON": None, "PATH": "{bin}"}, None),
    "empty PYTHON": ((), {"STREAMING_RUNTIME_PYTHON": "", "PATH": "{bin}"}, None),
    "PYTHON as a name": ((), {"STREAMING_RUNTIME_PYTHON": "python3", "PATH": "{bin}"}, None),
    "PYTHON as an absolute path": ((), {"STREAMING_RUNTIME_PYTHON": PYTHON}, None),
    "PYTHON as a relative path": ((), {"STREAMING_RUNTIME_PYTHON": "bin/python3"}, None),
    "PYTHON as a relative path with a dot": ((), {"STREAMING_RUNTIME_PYTHON": "./bin/python3"}, None),
    "relative folder on PATH": ((), {"STREAMING_RUNTIME_PYTHON": None, "PATH": "bin:{bin}"}, None),
    "PYTHONSAFEPATH": ((), {"PYTHONSAFEPATH": "1"}, None),
    "CDPATH": ((), {"CDPATH": "/:{bin}"}, None),
}


@pytest.mark.parametrize(("arguments", "environment", "body"), STARTS.values(), ids=list(STARTS))
def test_the_handler_runs_however_bootstrap_is_started(
    sandbox: Sandbox, arguments: tuple[str, ...], environment: dict[str, str | None], body: bytes | None
) -> None:
    path = _python_on_path(sandbox.task)
    (sandbox.task / "package").mkdir()
    (sandbox.task / "package" / "inner.py").write_text("def handler(e, c):\n    return 'inner'\n")
    ended = sandbox.run(
        SHOW,
        event(),
        command=(BOOTSTRAP, *arguments),
        environment={name: value and value.replace("{bin}", path) for name, value in environment.items()},
    )
    assert ended.bodies == [body or shown(sandbox)]


PREFERRED: dict[str, tuple[tuple[str, ...], dict[str, str | None], bool]] = {
    "beside it": ((), {"STREAMING_RUNTIME_PYTHON": None}, True),
    "before the one on PATH": (("app.handler",), {"STREAMING_RUNTIME_PYTHON": None, "PATH": "{bin}"}, True),
    "not before PYTHON": ((), {"STREAMING_RUNTIME_PYTHON": PYTHON}, False),
    "not before the one of Lambda": ((PYTHON, "/var/runtime/bootstrap.py"), {"STREAMING_RUNTIME_PYTHON": None}, False),
}


@pytest.mark.parametrize(("arguments", "environment", "bundled"), PREFERRED.values(), ids=list(PREFERRED))
def test_the_interpreter_of_the_package_is_preferred(
    sandbox: Sandbox, arguments: tuple[str, ...], environment: dict[str, str | None], bundled: bool
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
        environment={name: value and value.replace("{bin}", path) for name, value in environment.items()},
    )
    assert ended.bodies == [b"true" if bundled else b"false"]


MISSING: dict[str, tuple[tuple[str, ...], dict[str, str | None], str]] = {
    "absolute": ((), {"STREAMING_RUNTIME_PYTHON": "/no/such/python"}, "/no/such/python"),
    "relative": ((), {"STREAMING_RUNTIME_PYTHON": "no/such/python"}, "no/such/python"),
    "name": ((), {"STREAMING_RUNTIME_PYTHON": "no-such-python"}, "no-such-python"),
    "handler as argument": (("app.handler",), {"STREAMING_RUNTIME_PYTHON": "no-such-python"}, "no-such-python"),
    "exec wrapper": (("/no/such/python", "/var/runtime/bootstrap.py"), {}, "/no/such/python"),
    "nothing on PATH": ((), {"STREAMING_RUNTIME_PYTHON": None, "PATH": "/no/such/folder:{tools}"}, "python3"),
}


@pytest.mark.parametrize(("arguments", "environment", "named"), MISSING.values(), ids=list(MISSING))
def test_a_missing_interpreter_is_named_and_the_status_is_127(
    sandbox: Sandbox, arguments: tuple[str, ...], environment: dict[str, str | None], named: str
) -> None:
    tools = sandbox.task / "tools"
    tools.mkdir()
    ended = sandbox.run(
        SHOW,
        command=(BOOTSTRAP, *arguments),
        environment={name: value and value.replace("{tools}", str(tools)) for name, value in environment.items()},
    )
    assert ended.status == 127
    assert (
        ended.errors
        == f"bootstrap: no Python interpreter '{named}'; put python3 on PATH or set STREAMING_RUNTIME_PYTHON\n"
    )
    assert (ended.requests, ended.output) == ([], "")


@pytest.mark.parametrize("shell", ["sh", "bash"])  # the two that are /bin/sh where this runs
def test_an_interpreter_that_cannot_be_executed_is_named(sandbox: Sandbox, shell: str) -> None:
    ended = sandbox.run(SHOW, command=(shell, BOOTSTRAP), environment={"STREAMING_RUNTIME_PYTHON": "./app.py"})
    assert ended.status in {126, 127}
    assert "./app.py" in ended.errors


@pytest.mark.parametrize("name", ["src", "a folder with spaces", "-dash", "it's $HOME"])
@pytest.mark.parametrize("root", [None, ""], ids=["unset", "empty"])
def test_without_a_task_root_the_handler_is_looked_for_beside_bootstrap(
    sandbox: Sandbox, name: str, root: str | None
) -> None:
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
def test_bootstrap_may_be_called_by_any_relative_path(
    sandbox: Sandbox, cwd: str, command: tuple[str, ...], cdpath: str | None
) -> None:
    folder = _project(sandbox, "src")
    (sandbox.task / "other" / "src").mkdir(parents=True)  # where CDPATH would lead
    ended = sandbox.run(
        "",
        event(),
        command=command,
        cwd=sandbox.task / cwd,
        environment={"LAMBDA_TASK_ROOT": None, "CDPATH": cdpath},
    )
    assert ended.bodies == [f'["src", "{folder}"]'.encode()]


def test_the_functions_own_modules_come_before_all_others(sandbox: Sandbox) -> None:
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


def test_path_files_of_the_function_count_and_what_lambda_provides_comes_last(sandbox: Sandbox) -> None:
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
def test_a_process_that_multiprocessing_starts_runs_no_runtime_of_its_own(sandbox: Sandbox, method: str) -> None:
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


def test_bootstrap_may_be_a_symbolic_link(sandbox: Sandbox) -> None:
    link = sandbox.task / "link"
    link.symlink_to(BOOTSTRAP)
    assert sandbox.run(SHOW, event(), command=(str(link),)).bodies == [shown(sandbox)]


def test_modules_named_like_those_of_the_standard_library_do_not_keep_the_runtime_from_starting(
    sandbox: Sandbox,
) -> None:
    folder = _project(sandbox, "src")
    for name in ("json", "logging", "select", "socket", "string", "token", "traceback"):
        (folder / f"{name}.py").write_text("raise RuntimeError('this is the function's own')\n")
    ended = sandbox.run(
        "", event(), command=(str(folder / "bootstrap"),), cwd=folder, environment={"LAMBDA_TASK_ROOT": None}
    )
    assert ended.bodies == [f'["src", "{folder}"]'.encode()]


def test_a_task_root_that_does_not_exist_is_an_error_of_the_start(sandbox: Sandbox) -> None:
    ended = sandbox.run(SHOW, environment={"LAMBDA_TASK_ROOT": "/no/such/folder"})
    assert ended.status == 1
    assert [request.target for request in ended.requests] == ["/2018-06-01/runtime/init/error"]
    assert b"No such file or directory: '/no/such/folder'" in ended.requests[0].body


def test_bootstrap_replaces_the_shell(sandbox: Sandbox) -> None:
    running = sandbox.start("import os\ndef handler(e, c):\n    return os.getpid()\n", event())
    assert running.end().bodies == [b"%d" % running.process.pid]


def _python_on_path(task: Path) -> str:
    folder = task / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(PYTHON)
    return str(folder)


def _project(sandbox: Sandbox, name: str) -> Path:
    """A copy of the project's source in a folder of this name, with a handler that shows where it is."""
    folder = sandbox.task / name
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "app.py").write_text(
        "import os\ndef handler(e, c):\n    return [os.path.basename(os.getcwd()), os.environ['LAMBDA_TASK_ROOT']]\n"
    )
    return folder


# The script of AWS's documentation on wrappers, but for its comments.
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
    "another shell's start": ('#!/bin/sh\nset -- "$@"\n"$@" &\nwait $!\n', b'["app", false, null, null]'),
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
def test_a_wrapper_in_the_runtimes_own_slot_starts_it_however_bootstrap_was_started(
    sandbox: Sandbox, script: str, body: bytes, arguments: tuple[str, ...], name: str
) -> None:
    wrapper = _script(sandbox.task / name, script)
    (sandbox.task / "wrapped.py").write_text("import app\nWRAPPED = __name__\n" + textwrap.dedent(WRAPPED))
    ended = sandbox.run(
        WRAPPED, event(), command=(BOOTSTRAP, *arguments), environment={"STREAMING_RUNTIME_EXEC_WRAPPER": wrapper}
    )
    assert ended.bodies == [body]
    assert ("import time:" in ended.errors) == ("importtime" in script)


@pytest.mark.parametrize("arguments", WRAPPED_STARTS.values(), ids=list(WRAPPED_STARTS))
def test_a_wrapper_may_lie_on_path_and_sees_the_command_it_is_to_run(
    sandbox: Sandbox, arguments: tuple[str, ...]
) -> None:
    _script(sandbox.task / "wrapper", '#!/bin/sh\nprintf "%s\\n" "$@" >&2\nexec "$@"\n')
    environment = {"STREAMING_RUNTIME_EXEC_WRAPPER": "wrapper", "PATH": f"{sandbox.task}:{os.defpath}"}
    ended = sandbox.run(WRAPPED, event(), command=(BOOTSTRAP, *arguments), environment=environment)
    python, *rest = ended.errors.splitlines()[:4]
    assert python == (arguments[0] if len(arguments) == 2 else sandbox.python)
    assert rest == ["-u", "-P", str(SOURCE / "streaming_runtime" / "__main__.py")]
    assert len(ended.bodies) == 1


def test_an_empty_wrapper_is_none(sandbox: Sandbox) -> None:
    ended = sandbox.run(WRAPPED, event(), environment={"STREAMING_RUNTIME_EXEC_WRAPPER": ""})
    assert ended.bodies == [b'["app", false, null, null]']


def test_a_wrapper_that_is_bootstrap_itself_is_not_called_without_end(sandbox: Sandbox) -> None:
    ended = sandbox.run(WRAPPED, event(), environment={"STREAMING_RUNTIME_EXEC_WRAPPER": BOOTSTRAP})
    assert ended.bodies == [b'["app", false, null, null]']


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("arguments", WRAPPED_STARTS.values(), ids=list(WRAPPED_STARTS))
@pytest.mark.parametrize("wrapper", ["/no/such/wrapper", "no/such/wrapper", "no-such-wrapper"])
def test_a_missing_wrapper_is_named_and_the_status_is_127(
    sandbox: Sandbox, wrapper: str, arguments: tuple[str, ...], shell: str
) -> None:
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
def test_a_wrapper_that_cannot_be_executed_is_named(sandbox: Sandbox, kind: str, shell: str) -> None:
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


def _script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_the_runtime_starts_as_a_module_too(sandbox: Sandbox) -> None:
    command = (sys.executable, "-m", "streaming_runtime")
    ended = sandbox.run(
        "def handler(e, c):\n    yield 'x'\n", event(), command=command, environment={"PYTHONPATH": str(SOURCE)}
    )
    assert ended.bodies == [b"x"]
