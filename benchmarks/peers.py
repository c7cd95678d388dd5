"""The runtimes that are measured, and how each is started."""

import compileall
import os
import shutil
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

#: The folder of the function that all of them serve.
FUNCTIONS = Path(__file__).parent / "functions"

OURS = "streaming_runtime"
AWSLAMBDARIC = "awslambdaric"
HAYATE = "hayate"
FLOOR = "floor"
UVICORN = "uvicorn"
LWA = "Lambda Web Adapter"
MANGUM = "Mangum"
#: Another version of our runtime.
AGAINST = "against"


class Peer(NamedTuple):
    """A runtime to be measured.

    Attributes:
        name: The name of its project.
        version: The installed version; empty if it is not a package.
        command: Starts it.
        handler: The value of ``_HANDLER``.
        streams: Whether each chunk is sent separately.
        keeps_chunks: Whether the chunks that arrive are those of the function.
        port: Of a web server; 0 for a runtime.
        quick: Whether the Runtime API acknowledges immediately what arrives.
    """

    name: str
    version: str
    command: tuple[str, ...]
    handler: str = ""
    streams: bool = True
    keeps_chunks: bool = True
    port: int = 0
    quick: bool = False

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}".strip()


def peers(source: Path, build: Path) -> list[Peer]:
    """Return our runtime, a copy of `source` in the folder `build`, and the runtimes of others.

    All run in this process's interpreter, and all are compiled before they are measured.
    """
    return [
        ours(OURS, source, build),
        awslambdaric(),
        # Imported, because Python compiles a script at each start.
        Peer(HAYATE, version(HAYATE), (sys.executable, "-c", "import hayate_app")),
        floor(),
    ]


def awslambdaric() -> Peer:
    """Return AWS's own client, which sends the response in one piece."""
    command = (sys.executable, "-m", AWSLAMBDARIC, "app.whole")
    return Peer(AWSLAMBDARIC, version(AWSLAMBDARIC), command, "app.whole", streams=False)


def floor() -> Peer:
    """Return the bare script."""
    return Peer(FLOOR, "", (sys.executable, "-c", "import floor"))


def versions(source: Path, other: Path, build: Path) -> list[Peer]:
    """Return our runtime and another version of it, in the folder `other`."""
    return [ours(OURS, source, build), ours(AGAINST, other, build.with_name(f"{build.name}-{AGAINST}"))]


# Without these the adapter does not start.
_LWA_VARIABLES = (
    "AWS_LAMBDA_FUNCTION_NAME=benchmark AWS_LAMBDA_FUNCTION_VERSION=1 AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512 "
    "AWS_LAMBDA_LOG_GROUP_NAME=benchmark AWS_LAMBDA_LOG_STREAM_NAME=benchmark"
)
_UVICORN_OPTIONS = ("--host", "127.0.0.1", "--no-access-log", "--log-level", "warning")


def installed(package: str) -> bool:
    """Tell whether this interpreter has the package."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def lambda_web_adapter() -> str | None:
    """Return the path of the adapter, which ``LAMBDA_WEB_ADAPTER`` or ``PATH`` names."""
    return os.environ.get("LAMBDA_WEB_ADAPTER") or shutil.which("lambda-adapter")


def left_out() -> dict[str, str]:
    """Return the reason for each peer of an application that cannot be measured here."""
    reasons = {name: "it is not installed" for name in (UVICORN, HAYATE, MANGUM) if not installed(name)}
    if UVICORN in reasons:
        reasons[LWA] = "uvicorn is not installed"
    elif lambda_web_adapter() is None:
        reasons[LWA] = "neither LAMBDA_WEB_ADAPTER nor PATH names it (cargo install lambda_web_adapter)"
    return reasons


def application_peers(application: str) -> list[Peer]:
    """Return uvicorn alone and behind the Lambda Web Adapter, serving the ASGI application `application`.

    Those that are not at hand are missing.
    """
    absent = left_out()
    found = []
    command = (sys.executable, "-m", "uvicorn", application, *_UVICORN_OPTIONS, "--port")
    if UVICORN not in absent:
        port = _free_port()
        found.append(Peer(UVICORN, version(UVICORN), (*command, str(port)), keeps_chunks=False, port=port))
    if LWA not in absent:
        port = _free_port()
        # As Lambda does it: the adapter is an extension, which starts beside the application.
        script = (
            f"{_LWA_VARIABLES} AWS_LWA_PORT={port} AWS_LWA_INVOKE_MODE=response_stream "
            'AWS_LWA_READINESS_CHECK_PROTOCOL=tcp "$0" & exec "$@"'
        )
        adapter = str(lambda_web_adapter())
        starting = ("/bin/sh", "-c", script, adapter, *command, str(port))
        found.append(Peer(LWA, "", starting, keeps_chunks=False, quick=True))
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def ours(name: str, source: Path, build: Path) -> Peer:
    """Return our runtime, compiled in a copy of `source` in the folder `build`."""
    shutil.rmtree(build, ignore_errors=True)
    shutil.copytree(
        source / "streaming_runtime", build / "streaming_runtime", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(source / "bootstrap", build)
    for folder in (build, FUNCTIONS):
        compileall.compile_dir(folder, quiet=1)
    return Peer(name, "", (str(build / "bootstrap"),), "app.stream")
