"""A connection to the Runtime API: requests out, answers in. It is made when something is to be sent."""

from __future__ import annotations

# The C module: importing `socket` around it takes longer than importing this package.
import _socket

from . import wire

_RECEIVE_SIZE = 64 * 1024
_TCP_INFO: int | None = getattr(_socket, "TCP_INFO", None)  # Linux has it
_ESTABLISHED = b"\x01"


class RuntimeApiError(Exception):
    """The Runtime API cannot be reached, broke off, or refused a request."""


class Connection:
    """A connection to `host`, which is made anew when it has ended.

    Attributes:
        host: Host and port.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._socket: _socket.socket | None = None
        self._broken_off = False

    @property
    def socket(self) -> _socket.socket:
        """The socket, which is connected.

        Raises:
            OSError: It cannot be connected.
        """
        return self._socket or self._connect()

    def request(self, data: bytes) -> wire.ResponseParser:
        """Sends a request and waits for its answer, for as long as it takes.

        Raises:
            RuntimeApiError: The connection broke.
        """
        self.drop_ended()
        self.send(data)
        return self.receive()

    def send(self, data: bytes) -> None:
        """Sends all of `data`. This blocks until the other side has room: that is the backpressure.

        Raises:
            RuntimeApiError: The connection broke.
        """
        try:
            (self._socket or self._connect()).sendall(data)
        except OSError as error:
            raise self.broken(error) from None

    def receive(self) -> wire.ResponseParser:
        """Waits for an answer, for as long as it takes.

        Raises:
            RuntimeApiError: The connection broke, or what came is no answer.
        """
        answer = wire.ResponseParser()
        try:
            while not answer.feed(self.socket.recv(_RECEIVE_SIZE)):
                pass
        except (OSError, wire.WireError) as error:
            raise self.broken(error) from None
        except BaseException:  # a signal's: what comes must not be taken for the answer to another request
            self.close()
            raise
        return answer

    def drop_ended(self) -> None:
        """A connection that the other side has ended is not used for what comes next."""
        if self._socket is not None and _ended(self._socket):
            self.close()

    def break_off(self) -> None:
        """Makes a send that blocks fail, and what was sent an incomplete request. Safe in a signal's handler."""
        if self._socket is not None:
            self._broken_off = True
            try:
                self._socket.shutdown(_socket.SHUT_RDWR)
            except OSError:
                self._socket.close()  # the other side was first

    def broken(self, error: Exception) -> RuntimeApiError:
        """Ends the connection; gives what to raise for `error`."""
        reason = "broken off, since the time was up" if self._broken_off else error
        self.close()
        return RuntimeApiError(f"Runtime API at {self.host}: {reason}")

    def close(self) -> None:
        """Ends the connection, if there is one."""
        ended, self._socket, self._broken_off = self._socket, None, False
        if ended is not None:
            try:
                ended.close()
            except OSError:
                return  # the function has closed its descriptor

    def _connect(self) -> _socket.socket:
        host, _, port = self.host.rpartition(":")
        if not port.isdecimal():
            raise OSError(f"not a port: {port!r}")
        failure: OSError | None = None
        # As bytes, since a name as text would bring in the codec for international ones.
        for *kind, _, address in _socket.getaddrinfo(host.strip("[]").encode(), int(port), 0, _socket.SOCK_STREAM):
            connection = _socket.socket(*kind)
            try:
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
                continue
            # A chunk goes out when it is made, not when the one before was acknowledged.
            connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            self._socket = connection
            return connection
        assert failure is not None
        raise failure


def _ended(connection: _socket.socket) -> bool:
    """Whether the other side has ended an idle connection."""
    if _TCP_INFO is not None:
        try:
            return connection.getsockopt(_socket.IPPROTO_TCP, _TCP_INFO, 1) != _ESTABLISHED
        except OSError:  # the function has closed its descriptor
            return True
    # Anything that can be read from it says so, which takes longer to find out.
    try:
        connection.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
