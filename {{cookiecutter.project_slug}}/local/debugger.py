"""A function's process under a debugger: debugpy, which speaks the Debug Adapter Protocol of editors.

The server imports this file to know the command. The process of the function runs it as a script, before its runtime.
"""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Debugger:
    """How an editor can debug a function.

    Attributes:
        port: Where the function's process listens for the editor; 0 for any free port.
        wait: Whether the function waits for the editor before its code is imported.
    """

    port: int
    wait: bool = False

    def command(self, bootstrap: Path) -> list[str]:
        """Return the command that runs the runtime beside `bootstrap`, in place of it."""
        # Breakpoints cannot be set in modules that are frozen into the interpreter.
        python = [sys.executable, "-u", "-P", "-X", "frozen_modules=off"]
        runtime = bootstrap.parent / "streaming_runtime" / "__main__.py"
        return [*python, __file__, str(self.port), "wait" if self.wait else "attach", str(runtime)]


def main(port: str, mode: str, runtime: str) -> None:
    """Listen for an editor, and run the runtime."""
    import debugpy

    # The adapter of a process of its own would outlive this one, and keep the port when the code changes.
    _, listening = debugpy.listen((_HOST, int(port)), in_process_debug_adapter=True)
    if mode == "attach":
        print(f"Attach a debugger to {_HOST}:{listening} at any time. Timeouts are off.")
    else:
        print(f"The function waits for a debugger to attach to {_HOST}:{listening}.")
        debugpy.wait_for_client()
    del sys.argv[1:]
    runpy.run_path(runtime, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
