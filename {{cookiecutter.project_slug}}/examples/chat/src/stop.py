"""Ends an answer before its time. A client that disconnects does not stop a function, and the model is billed on.

The request to stop reaches another execution environment than the one that answers. It leaves a record, for which the
other one looks: an item in the DynamoDB table that STOP_TABLE names, or on localhost, without a table, a file.
"""

from __future__ import annotations

import logging
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

# `make dev` puts a name in angle brackets in place of what only AWS knows.
TABLE = "" if (name := os.environ.get("STOP_TABLE", "")).startswith("<") else name
INTERVAL = float(os.environ.get("STOP_INTERVAL", "0.5"))  # seconds between two looks at the table
LIFETIME = 60 * 60  # seconds that a record is kept
FOLDER = Path(os.environ.get("TMPDIR", "/tmp")) / "stopped-answers"
# On Lambda each execution environment has files of its own.
AVAILABLE = bool(TABLE) or os.environ.get("LAMBDA_TASK_ROOT") != "/var/task"
log = logging.getLogger("chat")


@cache
def dynamodb() -> Any:
    """Return the client, created on first use. Its timeouts are short, because an answer waits."""
    from botocore.config import Config
    from botocore.session import Session

    config = Config(connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1})
    return Session().create_client("dynamodb", config=config)


def stop(answer_id: str) -> None:
    """Leave a record that the answer with this id is to end."""
    if TABLE:
        expires = str(int(time.time()) + LIFETIME)
        dynamodb().put_item(TableName=TABLE, Item={"id": {"S": answer_id}, "expires": {"N": expires}})
    else:
        FOLDER.mkdir(exist_ok=True)
        _file(answer_id).touch()


class Watch:
    """Tells whether an answer is to end."""

    def __init__(self, answer_id: str) -> None:
        self._id = answer_id
        self._looked = time.monotonic()

    def stopped(self) -> bool:
        """Look for the record; in the table at most every INTERVAL seconds, because each look costs a read."""
        if not TABLE:
            return AVAILABLE and _file(self._id).exists()
        if time.monotonic() - self._looked < INTERVAL:
            return False
        self._looked = time.monotonic()
        from botocore.exceptions import BotoCoreError, ClientError

        # A read that is not consistent costs half, and may see a record a moment later.
        key = {"id": {"S": self._id}}
        try:
            return "Item" in dynamodb().get_item(TableName=TABLE, Key=key, ProjectionExpression="id")
        except (BotoCoreError, ClientError) as error:
            log.warning("cannot look whether to stop %s: %s", self._id, error)
            return False


def _file(answer_id: str) -> Path:
    from hashlib import sha256

    return FOLDER / sha256(answer_id.encode(errors="replace")).hexdigest()
