"""A function with SnapStart on localhost: its hooks run around a snapshot that is not taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.support import TEMPLATE
from tests.local.conftest import Serve, function

from local.environment import environment
from local.template import load_function

FAILED = (502, b"Internal Server Error")
HOOKS = """
    import snapshot_restore_py as hooks

    NOTED = []
    hooks.register_before_snapshot(NOTED.append, "before")
    hooks.register_after_restore(NOTED.append, "after")

    def handler(event, context):
        yield " ".join([*NOTED, os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]])
    """


@pytest.mark.parametrize(
    ("snap_start", "body"), [(True, b"before after snap-start"), (False, b"on-demand")], ids=["with", "without"]
)
def test_hooks_run_before_first_event(serve: Serve, snap_start: bool, body: bytes) -> None:
    served = serve(HOOKS, url={"snap_start": snap_start})
    assert [served.get(), served.get()] == [(200, body)] * 2


@pytest.mark.parametrize("when", ["before_snapshot", "after_restore"])
def test_failing_hook_is_502_until_fixed(serve: Serve, when: str) -> None:
    served = serve(HOOKS + f"\n    hooks.register_{when}(int, 'no number')\n", url={"snap_start": True})
    assert served.get() == FAILED
    assert "[ERROR] ValueError: invalid literal for int()" in served.log
    (served.folder / "served.py").write_text("def handler(event, context):\n    return 'fixed'\n", encoding="utf-8")
    assert served.get() == (200, b'"fixed"')


@pytest.mark.parametrize(
    ("globals_", "own", "snap_start"),
    [
        ("{}", "{ApplyOn: PublishedVersions}", True),
        ("{ApplyOn: PublishedVersions}", "{}", True),
        ("{ApplyOn: PublishedVersions}", "{ApplyOn: None}", False),
        ("{}", "{}", False),
        ("{}", "true", False),
    ],
)
def test_snapstart_in_template(globals_: str, own: str, snap_start: bool, tmp_path: Path) -> None:
    code = TEMPLATE / "runtime"
    (tmp_path / "template.yaml").write_text(
        f"Globals: {{Function: {{SnapStart: {globals_}}}}}\n"
        "Resources:\n  Of:\n    Type: AWS::Serverless::Function\n"
        f"    Properties: {{CodeUri: '{code}', SnapStart: {own}}}\n",
        encoding="utf-8",
    )
    assert load_function(tmp_path / "template.yaml", "Of").snap_start == snap_start


def test_environment_of_snapshot() -> None:
    name, logs = "AWS_LAMBDA_INITIALIZATION_TYPE", {"AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME"}
    restored, started = (environment(function(snap_start=of), "", {}) for of in (True, False))
    assert (restored[name], started[name]) == ("snap-start", "on-demand")
    assert started.keys() - restored.keys() == logs
