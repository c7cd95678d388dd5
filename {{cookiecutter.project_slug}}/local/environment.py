"""The environment variables of a function's process: what Lambda, the template and the shell set."""

from __future__ import annotations

import os
import sys
import time
import uuid

from .aws import PROFILE_VARIABLES
from .template import Function


def environment(function: Function, runtime_api: str, credentials: dict[str, str]) -> dict[str, str]:
    """Return the environment variables of a process that runs `function`.

    Variables of the shell override those of the template, so that a value can be tried out. Neither overrides what
    Lambda reserves.
    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime

    Args:
        function: The function that the process runs.
        runtime_api: Host and port of the Runtime API of its execution environment.
        credentials: Variables with AWS credentials that take the place of a profile.
    """
    variables = {
        **function.environment,
        **os.environ,
        "AWS_REGION": function.aws.region,
        "AWS_DEFAULT_REGION": function.aws.region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start" if function.snap_start else "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid.uuid4().hex}",
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
        "LAMBDA_TASK_ROOT": str(function.code),
        "TZ": ":UTC",
        "_HANDLER": function.handler,
    }
    # A built package may contain an interpreter, which the bootstrap finds.
    if not (function.code / "python" / "bin" / "python3").exists():
        variables.setdefault("STREAMING_RUNTIME_PYTHON", sys.executable)
    if credentials:
        variables |= credentials
        for name in PROFILE_VARIABLES:
            variables.pop(name, None)
    # On Lambda this variable makes the managed runtime start our bootstrap, which is started directly here.
    variables.pop("AWS_LAMBDA_EXEC_WRAPPER", None)
    if function.snap_start:  # "not available in Lambda SnapStart functions"
        del variables["AWS_LAMBDA_LOG_GROUP_NAME"], variables["AWS_LAMBDA_LOG_STREAM_NAME"]
    if function.runtime.startswith("provided"):
        del variables["AWS_EXECUTION_ENV"]  # "not defined for OS-only runtimes"
    return variables
