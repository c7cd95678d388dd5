"""Finds the thread that runs the function's code while the event loop waits for it."""

from __future__ import annotations

import os
import sys
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from ._types import Frame

_OWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


def user_thread() -> list[Frame]:
    """Return the stack of the thread in which code of the function runs, from that code on; else nothing.

    An event loop waits for such a thread, so its own stack shows only where it waits: a framework's line.
    """
    root = os.path.join(os.path.abspath(os.environ.get("LAMBDA_TASK_ROOT", "")), "")
    installed = _installed(root)
    threads = sys._current_frames()
    del threads[get_ident()]  # also since a frame that references itself would stay in memory
    for frame in threads.values():
        stack = _stack(frame)
        frames = [(each.f_code.co_filename, each.f_lineno, each.f_code.co_name) for each in stack]
        for number, (path, _, _) in enumerate(frames):
            if path.startswith(root) and not path.startswith((_OWN, *installed)):
                return frames[number:]
    return []


def _stack(frame: FrameType | None) -> list[FrameType]:
    """Return `frame` and its callers, the outermost first."""
    stack: list[FrameType] = []
    while frame is not None:
        stack.insert(0, frame)
        frame = frame.f_back
    return stack


def _installed(root: str) -> list[str]:
    """Return the folders and files in `root` that are from installed packages."""
    names: set[str] = set()
    for folder in os.listdir(root):
        if folder.endswith(".dist-info"):
            try:
                with open(os.path.join(root, folder, "RECORD"), encoding="utf-8") as record:
                    names.update(line.partition("/")[0].partition(",")[0] for line in record)
            except OSError:  # without this list, its frames may be shown
                continue
    return [os.path.join(root, name) for name in names]
