"""A stand-in for AWS's Python client on the day that it streams.

It uses nothing of the streaming runtime. It streams an object with `content`, `status_code`, `headers` and `cookies`.
Any other result is buffered JSON, as in AWS's client of today.
"""

import http.client
import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

API = "/2018-06-01/runtime/invocation"


def encoded(content: Any) -> Iterator[bytes]:
    for item in content:
        yield item.encode() if isinstance(item, str) else item


def body_of(result: Any) -> Iterator[bytes]:
    """Yield HTTP metadata, delimiter, and each item as soon as the handler yields it."""
    cookies = list(result.cookies)
    yield json.dumps({"statusCode": result.status_code, "headers": result.headers, "cookies": cookies}).encode()
    yield bytes(8)
    yield from encoded(result.content)


def serve(handler: Any, host: str) -> None:
    """Serve one invocation."""
    connection = http.client.HTTPConnection(host)
    connection.request("GET", f"{API}/next")
    answer = connection.getresponse()
    event = json.loads(answer.read())
    path = f"{API}/{answer.headers['Lambda-Runtime-Aws-Request-Id']}/response"
    result = handler(event, None)
    if hasattr(result, "content"):
        headers = {
            "Content-Type": "application/vnd.awslambda.http-integration-response",
            "Lambda-Runtime-Function-Response-Mode": "streaming",
            "Transfer-Encoding": "chunked",
        }
        connection.request("POST", path, body_of(result), headers, encode_chunked=True)
    else:
        connection.request("POST", path, json.dumps(result), {"Content-Type": "application/json"})
    connection.getresponse().read()
    connection.close()


if __name__ == "__main__":
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]
    module, _, name = os.environ["_HANDLER"].rpartition(".")
    function = getattr(importlib.import_module(module), name)
    while True:
        serve(function, os.environ["AWS_LAMBDA_RUNTIME_API"])
