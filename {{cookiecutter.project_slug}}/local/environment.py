"""The environment of a sandbox: what Lambda sets for every function, and what the template and the shell add.

https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
"""

from __future__ import annotations

import os
import sys
import time
import uuid

from .template import Function


def region() -> str:
    """The AWS region that the function believes to be in."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def environment(function: Function, runtime_api: str) -> dict[str, str]:
    """The variables of a process of `function`.

    The shell's override the template's, so that one can be tried out; neither overrides what Lambda reserves.

    Args:
        function: What runs in the sandbox.
        runtime_api: Host and port of the sandbox's Runtime API.
    """
    variables = {
        "PYTHON": sys.executable,
        **function.environment,
        **os.environ,
        "AWS_REGION": region(),
        "AWS_DEFAULT_REGION": region(),
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid.uuid4().hex}",
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
        "LAMBDA_TASK_ROOT": str(function.code),
        "TZ": ":UTC",
        "_HANDLER": function.handler,
    }
    # On Lambda it points at our bootstrap, which is what runs here anyway.
    variables.pop("AWS_LAMBDA_EXEC_WRAPPER", None)
    return variables
