"""SnapStart: the hooks around the snapshot of the execution environment, and the seed of `random` after it.

https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html
https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-custom.html
"""

from __future__ import annotations

import sys

from . import errors, logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .runtime_api import RuntimeApi

# Exit statuses of awslambdaric for failed hooks.
_BEFORE_SNAPSHOT_FAILED = 64
_AFTER_RESTORE_FAILED = 65


def snapshot(api: RuntimeApi) -> int:
    """Run the hooks of the `snapshot_restore_py` package around the snapshot.

    Returns:
        0 to go on; otherwise the exit status.
    """
    # Lambda's Python has the package. If the function did not import it, it registered no hooks.
    hooks = sys.modules.get("snapshot_restore_py")
    try:
        before = hooks.get_before_snapshot() if hooks else []
        while before:
            function, arguments, keywords = before.pop()
            function(*arguments, **keywords)
        logs.flush()
        api.restore_next()
    except BaseException as error:
        report = errors.report(error)
        logs.error(report)
        api.post_init_error(report, "Runtime.BeforeSnapshotError")
        return _BEFORE_SNAPSHOT_FAILED
    try:
        # All execution environments of a snapshot would produce the same random numbers. Python seeds this generator
        # after a fork for the same reason. What reads the system's entropy, such as `secrets`, needs no seed.
        if generator := sys.modules.get("random"):
            generator.seed()
        for function, arguments, keywords in hooks.get_after_restore() if hooks else []:
            function(*arguments, **keywords)
    except BaseException as error:
        report = errors.report(error)
        logs.error(report)
        api.post_restore_error(report)
        return _AFTER_RESTORE_FAILED
    return 0
