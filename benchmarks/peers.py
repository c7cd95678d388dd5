"""The runtimes that are measured, and how each is started."""

import compileall
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

#: The folder of the function that all of them serve.
FUNCTIONS = Path(__file__).parent / "functions"

OURS = "streaming_runtime"
AWSLAMBDARIC = "awslambdaric"
HAYATE = "hayate"
FLOOR = "floor"
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
    """

    name: str
    version: str
    command: tuple[str, ...]
    handler: str = ""
    streams: bool = True

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}".strip()


def peers(source: Path, build: Path) -> list[Peer]:
    """Return our runtime, a copy of `source` in the folder `build`, and the runtimes of others.

    All run in this process's interpreter, and all are compiled before they are measured.
    """
    return [
        _ours(OURS, source, build),
        Peer(
            AWSLAMBDARIC,
            version(AWSLAMBDARIC),
            (sys.executable, "-m", AWSLAMBDARIC, "app.whole"),
            "app.whole",
            streams=False,
        ),
        # Imported, because Python compiles a script at each start.
        Peer(HAYATE, version(HAYATE), (sys.executable, "-c", "import hayate_app")),
        Peer(FLOOR, "", (sys.executable, "-c", "import floor")),
    ]


def versions(source: Path, other: Path, build: Path) -> list[Peer]:
    """Return our runtime and another version of it, in the folder `other`."""
    return [_ours(OURS, source, build), _ours(AGAINST, other, build.with_name(f"{build.name}-{AGAINST}"))]


def _ours(name: str, source: Path, build: Path) -> Peer:
    shutil.rmtree(build, ignore_errors=True)
    shutil.copytree(
        source / "streaming_runtime", build / "streaming_runtime", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(source / "bootstrap", build)
    for folder in (build, FUNCTIONS):
        compileall.compile_dir(folder, quiet=1)
    return Peer(name, "", (str(build / "bootstrap"),), "app.stream")
