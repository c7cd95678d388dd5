"""Rules for what the code leaves in a snapshot, if the template has SnapStart.

All execution environments of a version start from one snapshot of the initialized function: with the same memory, and
with connections that have ended meanwhile.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from local.environment import environment
from local.template import load_functions

PROBE = Path(__file__).with_name("snapshot.py")
# https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html
INSTEAD = "do this in the handler or in an after-restore hook"


@cache
def snapshots(template: Path) -> dict[str, dict[str, Any]]:
    """Return what the snapshot of each function that has SnapStart would hold."""
    found = {}
    for name, function in load_functions(template).items():
        if function.snap_start:
            variables = environment(function, "", {}) | {"PYTHONPATH": str(function.bootstrap.parent)}
            command = [sys.executable, "-P", str(PROBE)]
            done = subprocess.run(command, cwd=function.code, env=variables, capture_output=True, text=True, timeout=60)
            ended = {"error": f"the process ended: {done.stderr}"}
            found[name] = json.loads(done.stdout) if done.stdout else ended
    return found


def test_function_initializes(project: Path) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/snapstart-troubleshooting.html
    for name, found in snapshots(project / "template.yaml").items():
        error = found.get("error")
        assert error is None, f"{name}: correct its initialization, without which no version is published: {error}"


def test_snapshot_has_no_connections(project: Path) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html#snapstart-compatibility
    for name, found in snapshots(project / "template.yaml").items():
        opened = found.get("connections")
        assert not opened, f"{name}: no connection survives the snapshot: {opened}; {INSTEAD}, or close it before"


def test_snapshot_has_no_unique_values(project: Path) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/snapstart-uniqueness.html
    for name, found in snapshots(project / "template.yaml").items():
        unique = found.get("unique")
        assert not unique, f"{name}: all execution environments would share its result: {unique}; {INSTEAD}"
