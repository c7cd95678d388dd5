"""An HTTP/1.1 server: h11 for the protocol, asyncio for the sockets.

No server library would do: the Runtime API takes trailers of requests, which uvicorn, hypercorn, aiohttp and tornado
do not hand over, and one connection has to be read at the pace of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from http.client import responses

import h11

_RECEIVE_SIZE = 256 * 1024
# An error trailer or an X-Ray header may take up to 1 MiB.
_HEAD_LIMIT = 2 * 1024 * 1024
# Connections that wait to be accepted, as when a hundred clients come at once.
_BACKLOG = 512
_RETRY_TIME = 1  # seconds
_NO_BODY = frozenset({204, 304})
# How long one connection may keep the others waiting while there is always more of it to read.
_TURN = 0.005  # seconds
# With SO_LINGER: a close that the peer sees as an error (RST), not as an end.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class ClientGone(Exception):
    """The peer closed the connection, or does not speak HTTP/1.1."""


class CannotListen(Exception):
    """The address is taken, not this machine's, or none at all."""


class Connection:
    """One connection of a client; it carries one request after the other."""

    def __init__(self, client: socket.socket, peer: str) -> None:
        """`client` does not block; `peer` is the client's address."""
        self.peer = peer
        #: The trailers of the last request whose body was read, by lower-case name.
        self.trailers: dict[str, str] = {}
        self._socket = client
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)
        self._method = b""
        self._bodiless = False  # whether the response's body may not be sent (RFC 9110, section 6.4.1)

    async def next_request(self) -> h11.Request | None:
        """The head of the next request; None when the client is done."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        elif self._h11.our_state is not h11.IDLE:
            return None
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        self._method = event.method
        return event

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the current request as it arrives; `trailers` is set once it is whole."""
        clock = asyncio.get_running_loop().time
        turn_ends = clock() + _TURN
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
                if clock() > turn_ends:
                    # Neither reading nor sending waits as long as there is something to read and room for it.
                    await asyncio.sleep(0)
                    turn_ends = clock() + _TURN
            elif isinstance(event, h11.EndOfMessage):
                self.trailers = fields(event)
                return
            else:
                raise ClientGone("the request broke off")

    async def whole_body(self, limit: float = math.inf) -> bytes:
        """The body of the current request, of which no more than the first `limit` bytes and some are kept."""
        whole = bytearray()
        async for data in self.body():
            if len(whole) <= limit:
                whole += data
        return bytes(whole)

    async def send(self, *events: h11.Event) -> None:
        """Sends `events`, and waits while the client is slow to take them. A body that may not be is left out.

        Raises:
            ClientGone: The client broke the connection off.
        """
        data = b""
        for event in events:
            if isinstance(event, h11.Response):
                self._bodiless = self._method == b"HEAD" or event.status_code in _NO_BODY
            if not (self._bodiless and isinstance(event, h11.Data)):
                data += self._h11.send(event) or b""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise ClientGone(str(error)) from error

    async def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Sends a whole response."""
        headers = [*headers, ("content-length", str(len(body)))]
        await self.send(response(status, headers), h11.Data(data=body), h11.EndOfMessage())

    def abort(self) -> None:
        """Breaks the connection off after what was sent, so that the client cannot take it for a whole response."""
        if self._h11.their_http_version == b"1.0":
            # There the end of the connection is the end of the body.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()

    @property
    def gone(self) -> bool:
        """Whether the peer has closed the connection, of which nothing has been read yet."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end_input(self) -> None:
        """Lets nothing be read beyond what has arrived."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def cut(self) -> None:
        """Lets whoever waits for the peer find it gone."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self.respond(error.error_status_hint, [("connection", "close")], b"")
                raise ClientGone(str(error)) from error
            if event is h11.NEED_DATA:
                if self._h11.they_are_waiting_for_100_continue:
                    await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                try:
                    self._h11.receive_data(await asyncio.get_running_loop().sock_recv(self._socket, _RECEIVE_SIZE))
                except OSError as error:
                    raise ClientGone(str(error)) from error
            elif isinstance(event, h11.Event):
                return event
            else:
                raise ClientGone("the connection is not idle")


class Server:
    """Listens, and gives each request to a function."""

    def __init__(self, serve: Callable[[Connection, h11.Request], Awaitable[None]]) -> None:
        """`serve` answers one request, whose head it is given, on a connection."""
        self._serve = serve
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listens on `host` and `port`, 0 for any free one; returns both as they are.

        Raises:
            CannotListen: The message says where and why.
        """
        try:
            family = (await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))[0][0]
            self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except (OSError, OverflowError, UnicodeError) as error:  # the last two: no port, no name of a host
            raise CannotListen(f"cannot listen on {host}:{port}: {error}") from error
        self._listener.setblocking(False)
        self._listen()
        address: tuple[str, int] = self._listener.getsockname()[:2]
        return address

    async def idle(self, seconds: float) -> None:
        """Returns when the connections that are open have ended, or after so many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def close(self) -> None:
        """Stops listening and breaks off what is being served."""
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
        except (BlockingIOError, ConnectionError):  # it has gone again
            return
        except OSError:  # there are too many open files, of which some will be closed
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(_RETRY_TIME, self._listen)
            return
        client.setblocking(False)
        with contextlib.suppress(OSError):  # it has gone again, as its first read will show
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(self._converse(Connection(client, address[0])))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not at the end of the task's own code, of which nothing runs if it is cancelled before it has begun.
        task.add_done_callback(lambda _: client.close())

    async def _converse(self, connection: Connection) -> None:
        with contextlib.suppress(ClientGone):  # of which the client knows
            while (request := await connection.next_request()) is not None:
                await self._serve(connection, request)


def fields(event: h11.Request | h11.EndOfMessage) -> dict[str, str]:
    """Header or trailer values by lower-case name; equal names are joined with commas (RFC 9110, section 5.3)."""
    return joined((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)


def joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Values by name; those of equal names are joined with commas."""
    values: dict[str, str] = {}
    for name, value in pairs:
        values[name] = f"{values[name]},{value}" if name in values else value
    return values


def response(status: int, headers: list[tuple[str, str]]) -> h11.Response:
    """The head of a response. Without a length its body is chunked.

    Raises:
        ValueError: A header is not latin-1.
        h11.LocalProtocolError: The status or a header is not one of HTTP.
    """
    return h11.Response(
        status_code=status,
        reason=responses.get(status, "").encode(),
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
    )


def url_of(host: str, port: int) -> str:
    """The URL of a server that listens there."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
