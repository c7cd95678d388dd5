"""The floor: what no runtime written in Python can do without. It makes the socket calls, and nothing else.

Nothing is parsed, checked or made while an invocation lasts: all that is sent was put together before.
"""

import os
import socket

COUNT = int(os.environ["CHUNKS"])
SIZE = int(os.environ["CHUNK_SIZE"])

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
chunk = b"%x\r\n%b\r\n" % (SIZE, b"x" * SIZE)

while True:
    connection = socket.socket()
    connection.connect(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(next_request)
    connection.recv(65536)
    connection.sendall(response_head)
    for _ in range(COUNT):
        connection.sendall(chunk)
    connection.sendall(b"0\r\n\r\n")
    connection.recv(65536)
    connection.close()
