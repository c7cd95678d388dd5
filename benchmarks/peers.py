"""The runtimes that are measured, and how each is started."""

import compileall
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

#: Where the function lies that they all serve.
FUNCTIONS = Path(__file__).parent / "functions"

OURS = "streaming_runtime"
AWSLAMBDARIC = "awslambdaric"
HAYATE = "hayate"
FLOOR = "floor"


class Peer(NamedTuple):
    """A runtime to be measured.

    Attributes:
        name: As its project calls it.
        version: What was installed; empty for what is no package.
        command: Starts it.
        handler: The value of ``_HANDLER``.
        streams: Whether each chunk goes out by itself.
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
    """All of them, ours first. It runs from a copy of its `source` in the folder `build`.

    All run in this process's interpreter, and all are compiled before they are measured.
    """
    shutil.rmtree(build, ignore_errors=True)
    shutil.copytree(source, build, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (build, FUNCTIONS):
        compileall.compile_dir(folder, quiet=1)
    return [
        Peer(OURS, "", (str(build / "bootstrap"),), "app.stream"),
        Peer(
            AWSLAMBDARIC,
            version(AWSLAMBDARIC),
            (sys.executable, "-m", AWSLAMBDARIC, "app.whole"),
            "app.whole",
            streams=False,
        ),
        # Imported, since a file that is run would be compiled at each start.
        Peer(HAYATE, version(HAYATE), (sys.executable, "-c", "import hayate_app")),
        Peer(FLOOR, "", (sys.executable, "-c", "import floor")),
    ]
