"""Requests to deployed functions: signed, through the proxy of the environment, and with endings that are checked."""

from __future__ import annotations

import http.client
import io
import re
import socket
from base64 import b64encode
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from .access import is_loopback

#: The host of a function URL or a REST API; the groups are the service and the region.
AWS_HOST = re.compile(r"[^.]+\.(lambda-url|execute-api)\.([^.]+)\.(?:on\.aws|amazonaws\.com)")


class RequestError(Exception):
    """The request cannot be sent; the message says why."""


class _LineReader(io.BufferedReader):
    """Remembers the last line: http.client takes the end of the connection for the empty line that it waits for."""

    last_line: bytes | None = None

    def readline(self, size: int | None = -1) -> bytes:
        self.last_line = super().readline(size)
        return self.last_line


class Response(http.client.HTTPResponse):
    """A response that knows whether the connection closed within its head, or within the end of a chunked body."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp: io.BufferedReader = _LineReader(self.fp.detach())
        self._lines = self.fp

    @property
    def cut(self) -> bool:
        """Whether a line was read that is missing."""
        return self._lines.last_line == b""


def connection_to(parts: SplitResult, timeout: float) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Return a connection for a request to a URL, what to put before its target, and headers for a proxy.

    The proxy is the one that the environment names for the URL. As in browsers, loopback addresses have none.

    Raises:
        RequestError: The proxy is not one for HTTP.
    """
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    proxies = getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    authority = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority += "" if parts.port is None else f":{parts.port}"
    if not proxy or is_loopback(authority) or proxy_bypass(authority):
        connection = kind(parts.hostname, parts.port, timeout=timeout)
        connection.response_class = Response
        return connection, "", {}
    try:
        through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = through.port or 80
    except ValueError:
        through, port = urlsplit(""), 0
    if through.scheme != "http" or not through.hostname:
        raise RequestError(f"the proxy must be http://HOST:PORT, got {proxy!r}")
    connection = kind(through.hostname, port, timeout=timeout)
    connection.response_class = Response
    user = f"{unquote(through.username or '')}:{unquote(through.password or '')}".encode()
    authorization = {} if through.username is None else {"proxy-authorization": f"Basic {b64encode(user).decode()}"}
    if parts.scheme == "https":
        connection.set_tunnel(parts.hostname, parts.port, authorization)
        return connection, "", {}
    return connection, f"http://{authority}", authorization


def signed_headers(
    method: str, parts: SplitResult, headers: dict[str, str], data: bytes | None, service: tuple[str, str] | None = None
) -> dict[str, str]:
    """Return headers with a signature (AWS Signature Version 4), if the host is AWS's and there are credentials.

    Args:
        method: Method of the request.
        parts: Its URL.
        headers: Its other headers.
        data: Its body.
        service: AWS's name of the service, and the region; by default those that the host names.

    Raises:
        RequestError: The credentials cannot be used.
    """
    host = AWS_HOST.fullmatch(parts.hostname or "")
    if service is None and host is not None:
        service = host[1].removesuffix("-url"), host[2]
    if service is None:
        return {}
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    # Before it compares signatures, AWS decodes and re-encodes the query. botocore signs the query as it is.
    query = urlencode(parse_qsl(parts.query, True, encoding="latin-1"), encoding="latin-1", quote_via=quote)
    request = AWSRequest(method, parts._replace(query=query).geturl(), headers, data)
    try:
        if credentials := Session().get_credentials():
            SigV4Auth(credentials, *service).add_auth(request)
    except (BotoCoreError, ClientError) as error:
        raise RequestError(f"cannot sign the request: {error}. Use --no-sign to send it unsigned") from error
    return {name.lower(): value for name, value in request.headers.items()}
