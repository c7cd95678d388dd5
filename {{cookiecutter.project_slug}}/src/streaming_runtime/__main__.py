"""Starts the runtime: finds the handler, then serves one invocation after the other."""

from __future__ import annotations

import os
import sys

from . import errors, handler, logs
from .invocation import serve
from .runtime_api import RuntimeApi, RuntimeApiError


def main() -> int:
    """Serves invocations until the process is ended.

    Returns:
        Exit status: 1 when the function could not be made ready or the Runtime API failed.
    """
    try:
        api = RuntimeApi(os.environ["AWS_LAMBDA_RUNTIME_API"])
        handler_name = os.environ["_HANDLER"]
    except KeyError as missing:
        print(f"streaming_runtime: {missing} is not set; Lambda or an emulator of it must start this", file=sys.stderr)
        return 1
    logs.setup()
    try:
        try:
            _look_for_modules_like_lambda()
            function = handler.load(handler_name)
        except (Exception, SystemExit) as error:
            logs.error(errors.report(error))
            api.post_init_error(error)
            return 1
        logs.flush()
        while True:
            serve(api, function, api.next_invocation())
    except RuntimeApiError as error:
        print(f"streaming_runtime: {error}", file=sys.stderr)
        return 1
    except SystemExit as wanted:
        # A function that ends its process has failed, even where it asked for status 0.
        sys.exit(wanted.code or 1)


def _look_for_modules_like_lambda() -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/python-layers.html: the function's code, then its layers.
    task_root = os.path.abspath(os.environ.get("LAMBDA_TASK_ROOT", ""))
    os.chdir(task_root)
    layer = "/opt/python"
    layer_packages = f"{layer}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    before = [path for path in (task_root, layer_packages, layer) if os.path.isdir(path)]
    sys.path[:] = [*before, *(path for path in sys.path if path not in before)]


if __name__ == "__main__":
    sys.exit(main())
