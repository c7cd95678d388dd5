"""An HTTP/1.1 server: `http_protocol` parses and writes messages, asyncio reads and writes the sockets.

No server library fits. The Runtime API needs the trailers of requests, which uvicorn, hypercorn, aiohttp and tornado
do not expose, and one connection has to be read at the pace of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from email.utils import formatdate
from http.client import responses

import h11

from .http_protocol import ServerProtocol

_RECEIVE_SIZE = 256 * 1024
_HEAD_LIMIT = 64 * 1024  # bytes
# Connections that may wait for accept(), for a hundred clients that connect concurrently.
_BACKLOG = 512
_ACCEPT_RETRY_DELAY = 1  # seconds
_BODILESS_STATUSES = frozenset({204, 304})
# How long input is discarded before a connection closes: unread input would make the close discard the response.
_LINGER_TIMEOUT = 1  # seconds
# How long a connection that always has more to read may keep the event loop from the others.
_TURN = 0.005  # seconds
# The value of SO_LINGER with which the peer sees a close as an error (RST) and not as the end of the data.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ClientDisconnected(Exception):
    """The peer closed the connection or does not speak HTTP/1.1."""


class ListenError(Exception):
    """The server cannot listen on the address; the message says why."""


class Connection:
    """One connection of a client. It carries one request after the other.

    Attributes:
        peer: The client's address.
        trailers: The trailers of the last request whose body was read, by lower-case name.
    """

    def __init__(self, client: socket.socket, peer: str, head_limit: int = _HEAD_LIMIT) -> None:
        """Wrap a connected socket.

        Args:
            client: A non-blocking socket.
            peer: The client's address.
            head_limit: How many bytes the head of a request may have.
        """
        self.peer = peer
        self.trailers: dict[str, str] = {}
        self._socket = client
        self._protocol = ServerProtocol(head_limit)
        self._method = b""
        self._bodiless = False  # whether the response must not have a body (RFC 9110, section 6.4.1)

    async def next_request(self) -> h11.Request | None:
        """Return the head of the next request, or None when the client sends no more."""
        if not self._protocol.start_request():
            return None
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        self._method = event.method
        return event

    async def iter_body(self) -> AsyncIterator[bytes]:
        """Yield the body of the current request as it arrives; `trailers` is set at its end."""
        clock = asyncio.get_running_loop().time
        turn_ends = clock() + _TURN
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
                if clock() > turn_ends:
                    # Neither reads nor writes suspend while there is data to read and room to write.
                    await asyncio.sleep(0)
                    turn_ends = clock() + _TURN
            elif isinstance(event, h11.EndOfMessage):
                self.trailers = field_values(event)
                return
            else:
                raise ClientDisconnected("the connection closed before the request was complete")

    async def read_body(self, limit: float = math.inf) -> bytes:
        """Read the whole body of the current request; once more than `limit` bytes are kept, drop the rest."""
        body = bytearray()
        async for data in self.iter_body():
            if len(body) <= limit:
                body += data
        return bytes(body)

    async def send(self, *events: h11.Event) -> None:
        """Send `events` and wait while the client is slow to read. Leave out a body that must not be sent.

        Raises:
            ClientDisconnected: The client closed the connection.
        """
        data = b""
        for event in events:
            if isinstance(event, h11.Response):
                self._bodiless = self._method == b"HEAD" or event.status_code in _BODILESS_STATUSES
            if not (self._bodiless and isinstance(event, h11.Data)):
                data += self._protocol.send(event)
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise ClientDisconnected(str(error)) from error

    async def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send a complete response."""
        if status != 204:  # RFC 9110, section 8.6
            headers = [*headers, ("content-length", str(len(body)))]
        await self.send(response_head(status, headers), h11.Data(data=body), h11.EndOfMessage())

    def abort(self) -> None:
        """Close the connection so that the client cannot take what was sent for a complete response."""
        if self._protocol.client_speaks_http_1_0:
            # In HTTP/1.0 the end of the connection is the end of the body.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()

    @property
    def peer_closed(self) -> bool:
        """Whether the peer closed the connection and all that it sent was read."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def linger(self) -> None:
        """End the output, and discard input until the client closes as well (RFC 9112, section 9.6)."""
        with contextlib.suppress(ClientDisconnected, OSError, TimeoutError):
            self._socket.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_LINGER_TIMEOUT):
                while await self._receive():
                    pass

    def shutdown_input(self) -> None:
        """End the input after the data that already arrived."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def shutdown(self) -> None:
        """Make every pending read and write of this connection fail."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._protocol.next_event()
                if event is h11.NEED_DATA:
                    if self._protocol.waits_for_100_continue:
                        await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                    self._protocol.receive_data(await self._receive())
                    continue
            except h11.RemoteProtocolError as error:
                await self._reject(error)
                raise ClientDisconnected(str(error)) from error
            if isinstance(event, h11.Event):
                return event
            raise ClientDisconnected("the connection is not idle")

    async def _receive(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, _RECEIVE_SIZE)
        except OSError as error:
            raise ClientDisconnected(str(error)) from error

    async def _reject(self, error: h11.RemoteProtocolError) -> None:
        """Respond to a malformed request, whose end is unknown, and end the connection."""
        if not self._protocol.can_respond:
            return
        await self.respond(error.error_status_hint, [("connection", "close")], b"")
        await self.linger()


class Server:
    """A listening socket whose requests go to one coroutine function."""

    def __init__(
        self, serve: Callable[[Connection, h11.Request], Awaitable[None]], head_limit: int = _HEAD_LIMIT
    ) -> None:
        """Create a server that does not listen yet.

        Args:
            serve: Called with the connection and the head of each request.
            head_limit: How many bytes the head of a request may have.
        """
        self._serve = serve
        self._head_limit = head_limit
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen on `host` and `port` (0 for any free port), and return the address and port in use.

        Raises:
            ListenError: The message says where and why.
        """
        try:
            family = (await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))[0][0]
            self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except (OSError, OverflowError, UnicodeError) as error:  # the last two: not a port, not a host name
            raise ListenError(f"cannot listen on {host}:{port}: {error}") from error
        self._listener.setblocking(False)
        self._listen()
        address: tuple[str, int] = self._listener.getsockname()[:2]
        return address

    async def wait_idle(self, seconds: float) -> None:
        """Wait until the open connections have ended, but no longer than `seconds`."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def close(self) -> None:
        """Stop listening and abort the requests in progress."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _listen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionError):  # the client already disconnected
            return
        except OSError:  # too many open files; retry when some may have been closed
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(_ACCEPT_RETRY_DELAY, self._listen)
            return
        client.setblocking(False)
        with contextlib.suppress(OSError):  # the client already disconnected; the first read will report it
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(self._serve_connection(Connection(client, address[0], self._head_limit)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # In a callback, because a task that is cancelled before its first step runs no code of its own.
        task.add_done_callback(lambda _: client.close())

    async def _serve_connection(self, connection: Connection) -> None:
        with contextlib.suppress(ClientDisconnected):  # the client knows
            while (request := await connection.next_request()) is not None:
                await self._serve(connection, request)
            await connection.linger()


def field_values(event: h11.Request | h11.EndOfMessage) -> dict[str, str]:
    """Return header or trailer values by lower-case name; join equal names with commas (RFC 9110, section 5.3)."""
    return join_values((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)


def join_values(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return values by name; join the values of equal names with commas."""
    values: dict[str, str] = {}
    for name, value in pairs:
        values[name] = f"{values[name]},{value}" if name in values else value
    return values


def response_head(status: int, headers: list[tuple[str, str]]) -> h11.Response:
    """Return the head of a response, with a `date` if it has none. Without a `content-length` its body is chunked.

    Raises:
        ValueError: A header is not Latin-1.
        h11.LocalProtocolError: HTTP does not allow the status or a header.
    """
    if not any(name == "date" for name, _ in headers):
        headers = [*headers, ("date", _date(int(time.time())))]
    return h11.Response(
        status_code=status,
        reason=responses.get(status, "").encode(),
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
    )


@functools.lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    """Return the value of a `date` header. Cached, because formatting it costs as much as a small chunk."""
    return formatdate(seconds, usegmt=True)


def url_of(host: str, port: int) -> str:
    """Return the URL of a server that listens on `host` and `port`."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
