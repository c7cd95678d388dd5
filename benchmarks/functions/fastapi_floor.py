"""The floor of a FastAPI application: it is called with a constant scope, and its messages become socket calls."""

import asyncio
import os
import socket
from typing import Any

from fastapi_app import CHUNK, app

host = os.environ["AWS_LAMBDA_RUNTIME_API"]
name, port = host.split(":")
address = (name, int(port))
api = "/2018-06-01/runtime/invocation"
next_request = f"GET {api}/next HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
response_head = (
    f"POST {api}/1/response HTTP/1.1\r\n"
    f"Host: {host}\r\n"
    "Content-Type: application/octet-stream\r\n"
    "Lambda-Runtime-Function-Response-Mode: streaming\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
).encode()
size_line = b"%x\r\n" % len(CHUNK)
scope: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "https",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [],
    "client": None,
    "server": ("localhost", 443),
    "state": {},
}


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def main() -> None:
    while True:
        connection = socket.socket()
        connection.connect(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(next_request)
        connection.recv(65536)

        async def send(message: dict[str, Any], connection: socket.socket = connection) -> None:
            if message["type"] == "http.response.start":
                connection.sendall(response_head)
                return
            if message["body"]:
                connection.sendmsg((size_line, message["body"], b"\r\n"))
            if not message.get("more_body"):
                connection.sendall(b"0\r\n\r\n")

        await app(dict(scope), receive, send)
        connection.recv(65536)
        connection.close()


asyncio.run(main())
