"""A server for Lambda's Runtime API, for one runtime at a time, as fast as Python allows.

It parses only what is needed to find the end of a request, so that the figures are those of the runtime.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import select
import socket
import struct
import sys
import time

_TIMEOUT = 10  # seconds without any request from a runtime
_TCP_QUICKACK = 12  # of Linux; other systems have no socket.TCP_QUICKACK
_BUFFER_SIZE = 256 * 1024
_END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REGISTER = b"POST /2020-01-01/extension/register"
_REGISTERED = b"HTTP/1.1 200 OK\r\nLambda-Extension-Identifier: 1\r\nContent-Length: 2\r\n\r\n{}"
_NEXT_OF_EXTENSION = b"GET /2020-01-01/extension/event/next"
_ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"status":"OK"}\n'


class RuntimeFailed(Exception):
    """A runtime failed or did not respond as expected."""


class RuntimeApi:
    """Sends one runtime the same event repeatedly. An extension that registers gets no events.

    Args:
        event: The event as JSON.
        quick: Acknowledge what arrives immediately, for a client that leaves Nagle's algorithm on: it otherwise waits
            40 ms of Linux's delayed acknowledgements in each short response.

    Attributes:
        address: The value of ``AWS_LAMBDA_RUNTIME_API``.
    """

    def __init__(self, event: bytes, quick: bool = False) -> None:
        self._quick = quick and sys.platform == "linux"
        self._listener = socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()
        self.address = f"{host}:{port}"
        self._invocation = _invocation(event)
        self._connections: dict[int, socket.socket] = {}
        self._asking: socket.socket | None = None
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)
        self._buffer = bytearray(_BUFFER_SIZE)
        self._view = memoryview(self._buffer)

    def wait(self) -> int:
        """Wait until the runtime asks for its next invocation. It stays idle until `invoke` answers.

        Returns:
            When it asked, by `time.perf_counter_ns`.
        """
        self._asking, size = self._receive()
        asked = time.perf_counter_ns()
        if not self._buffer.startswith(b"GET "):
            raise RuntimeFailed(bytes(self._view[:size]).decode("latin-1"))
        return asked

    def invoke(self, record: list[bytes] | None = None) -> int:
        """Run one invocation, and wait until the runtime asks for the next one.

        Args:
            record: Receives what the runtime sent, from the first byte of its response to the last.

        Returns:
            Nanoseconds from the answer to its ``/next`` to the last byte of its response.
        """
        assert self._asking is not None
        started = time.perf_counter_ns()
        self._asking.sendall(self._invocation)
        connection, size = self._receive()
        keep_alive = self._receive_response(connection, size, record)
        ended = time.perf_counter_ns()
        connection.sendall(_ACCEPTED)
        if not keep_alive:
            self._drop(connection)
        self.wait()
        return ended - started

    def close(self) -> None:
        """Close all connections."""
        for connection in (self._listener, *self._connections.values()):
            connection.close()

    def _receive(self) -> tuple[socket.socket, int]:
        """Wait for a request on any connection, and return the connection and the size of what arrived."""
        while True:
            ready = self._poll.poll(_TIMEOUT * 1000)
            if not ready:
                raise RuntimeFailed(f"no request within {_TIMEOUT} seconds")
            for descriptor, _ in ready:
                connection = self._connections.get(descriptor) or self._accept()
                try:
                    size = connection.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
                except BlockingIOError:  # a client opened a connection before it needs it, perhaps never
                    continue
                except ConnectionResetError:
                    size = 0
                if not size:
                    self._drop(connection)
                    continue
                if self._quick:
                    connection.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
                if self._buffer.startswith(_REGISTER):
                    connection.sendall(_REGISTERED)
                elif not self._buffer.startswith(_NEXT_OF_EXTENSION):  # which stays unanswered
                    return connection, size

    def _receive_response(self, connection: socket.socket, size: int, record: list[bytes] | None) -> bool:
        """Receive the rest of a response, `size` bytes of which are in the buffer. Tell whether to keep the connection.

        The end of the body is searched at the end of the received bytes, so the payload must not look like it.
        """
        while (end := self._buffer.find(_END_OF_HEAD, 0, size)) < 0:
            size += self._more(connection, self._view[size:])
        end += len(_END_OF_HEAD)
        head = self._buffer[:end].lower()
        if b"/response http/1.1\r\n" not in head:
            raise RuntimeFailed(bytes(self._view[:size]).decode("latin-1"))
        if record is not None:
            record.append(bytes(self._view[:size]))
        if b"\r\nexpect: 100-continue\r\n" in head:
            connection.sendall(_CONTINUE)
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            tail = self._buffer[max(end, size - len(_LAST_CHUNK)) : size]
            while tail != _LAST_CHUNK:
                size = self._more(connection, self._view)
                if record is not None:
                    record.append(bytes(self._view[:size]))
                if size >= len(_LAST_CHUNK):
                    tail = self._buffer[size - len(_LAST_CHUNK) : size]
                else:
                    tail = (tail + self._buffer[:size])[-len(_LAST_CHUNK) :]
        else:
            left = end + int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]) - size
            while left > 0:
                size = self._more(connection, self._view)
                if record is not None:
                    record.append(bytes(self._view[:size]))
                left -= size
        return b"\r\nconnection: close\r\n" not in head

    def _more(self, connection: socket.socket, buffer: memoryview) -> int:
        size = connection.recv_into(buffer)
        if not size:
            raise RuntimeFailed("the connection was closed in the middle of a response")
        if self._quick:
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)  # the kernel forgets it
        return size

    def _accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Python's own timeout would need one more system call each time.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _TIMEOUT, 0))
        self._connections[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)
        return connection

    def _drop(self, connection: socket.socket) -> None:
        self._poll.unregister(connection)
        del self._connections[connection.fileno()]
        connection.close()


def _invocation(event: bytes) -> bytes:
    deadline_ms = int(time.time() * 1000) + 15 * 60 * 1000
    lines = (
        "HTTP/1.1 200 OK",
        "Content-Type: application/json",
        f"Content-Length: {len(event)}",
        "Lambda-Runtime-Aws-Request-Id: 6f9c2f5e-7d1b-4c55-9b1e-0d6a3b0c9f21",
        f"Lambda-Runtime-Deadline-Ms: {deadline_ms}",
        "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:123456789012:function:benchmark",
        "Lambda-Runtime-Trace-Id: Root=1-6742a1f0-1a2b3c4d5e6f708192a3b4c5;Parent=53995c3f42cd8ad8;Sampled=0",
        "\r\n",
    )
    return "\r\n".join(lines).encode() + event
