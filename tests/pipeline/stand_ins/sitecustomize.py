"""Record the AWS calls of the `aws` and `sam` commands with their role, and shorten their waits.

Python imports this module from PYTHONPATH when it starts.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

if Path(sys.orig_argv[1] if len(sys.orig_argv) > 1 else "").name in ("aws", "sam") and "RECORD_CALLS" in os.environ:
    import botocore.client
    import botocore.waiter

    client: Any = botocore.client.BaseClient
    waiter: Any = botocore.waiter
    make = client._make_api_call

    def call(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        """Make the call, and add a line about it to the record."""
        entry = {
            "role": os.environ.get("STAND_IN_ROLE", ""),
            "service": self.meta.service_model.service_name,
            "operation": operation,
            "parameters": parameters,
        }
        answer: dict[str, Any] = {}
        try:
            answer = make(self, operation, parameters)
            return answer
        finally:
            entry["id"] = answer.get("Id", "")
            with open(os.environ["RECORD_CALLS"], "a", encoding="utf-8") as record:
                print(json.dumps(entry, default=str), file=record)

    class ShortSleeps:
        """The module `time` with short sleeps."""

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def sleep(self, seconds: float) -> None:
            time.sleep(min(seconds, 0.2))

    client._make_api_call = call
    waiter.time = ShortSleeps()
