"""`python -m local.proxy`: a URL on localhost whose requests are signed and sent on to a deployed function.

Browsers, MCP clients and curl can so call a URL with `AuthType: AWS_IAM`. Responses stream.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import signal
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import SplitResult, urlsplit

import h11

from .access import is_foreign_page, is_loopback
from .client import AWS_HOST, RequestError, Response, connection_to, signed_headers
from .events import HOP_BY_HOP
from .http_server import ClientDisconnected, Connection, ListenError, Server, field_values, response_head, url_of
from .limits import REQUEST_LIMIT

_RECEIVE_SIZE = 64 * 1024
_TIMEOUT = 900.0  # seconds without a byte; a function runs no longer
_MOST_STREAMS = 64  # each one occupies a thread


@contextlib.asynccontextmanager
async def proxying(url: str, port: int, service: tuple[str, str] | None = None) -> AsyncIterator[str]:
    """Send requests to `url` until the block ends; the block gets the URL on 127.0.0.1.

    Args:
        url: Where to send them.
        port: Port to listen on; 0 for any free port.
        service: AWS's name of the service, and the region, to sign for; by default those that the host of `url` names.

    Raises:
        ListenError: The message says where and why.
        RequestError: The URL names no service of AWS.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError(f"the URL must begin with https:// and a host, got {url!r}")
    if service is None and not AWS_HOST.fullmatch(parts.hostname):
        raise RequestError(
            f"{parts.hostname} is not the host of a function URL or REST API. Use --service and --region"
        )
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_MOST_STREAMS, "upstream"))
    server = Server(_Proxy(parts, service).serve)
    try:
        yield url_of(*await server.start("127.0.0.1", port))
    finally:
        await server.close()


class _Proxy:
    def __init__(self, parts: SplitResult, service: tuple[str, str] | None) -> None:
        self._parts = parts
        self._service = service

    async def serve(self, connection: Connection, request: h11.Request) -> None:
        """Answer one request with the response of the deployed function.

        Raises:
            ClientDisconnected: The client closed the connection, or was told that the response failed.
        """
        body = await connection.read_body(REQUEST_LIMIT)
        headers = field_values(request)
        if not is_loopback(headers.get("host", "localhost")) or is_foreign_page(headers):
            # Else any web page could use this machine's credentials.
            await _refuse(connection, 403, "only programs of this machine and pages of this URL may use the proxy")
            return
        if len(body) > REQUEST_LIMIT:
            await _refuse(connection, 413, f"a request has at most {REQUEST_LIMIT} bytes")
            return
        method = request.method.decode()
        target = request.target.decode("latin-1")
        dropped = HOP_BY_HOP | {"host", "authorization", "content-length", "expect"}
        sent = {name: value for name, value in headers.items() if name not in dropped}
        upstream: http.client.HTTPConnection | None = None
        try:
            upstream, response = await asyncio.to_thread(self._send, method, target, sent, body)
            await _forward(response, connection)
        except RequestError as error:
            await _refuse(connection, 502, str(error))
        except (http.client.HTTPException, OSError) as error:
            await _refuse(connection, 502, f"no response from {self._parts.hostname}: {error or type(error).__name__}")
        finally:
            if upstream is not None:
                upstream.close()

    def _send(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[http.client.HTTPConnection, Response]:
        base = self._parts.path.rstrip("/")
        path, _, query = f"{base}{target}".partition("?")
        parts = self._parts._replace(path=path, query=query)
        data = body or None
        signature = signed_headers(method, parts, headers, data, self._service)
        if "authorization" not in signature:
            raise RequestError("there are no AWS credentials: run `aws sso login` or set AWS_PROFILE")
        upstream, before, proxy = connection_to(parts, _TIMEOUT)
        try:
            upstream.request(method, before + path + (f"?{query}" if query else ""), data, {**signature, **proxy})
            response = upstream.getresponse()
        except BaseException:
            upstream.close()
            raise
        assert isinstance(response, Response)
        return upstream, response


async def _forward(response: Response, connection: Connection) -> None:
    """Send a response on, chunk by chunk; abort the connection if it breaks off."""
    headers = [(name.lower(), value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
    await connection.send(response_head(response.status, headers))
    try:
        while data := await asyncio.to_thread(response.read1, _RECEIVE_SIZE):
            await connection.send(h11.Data(data=data))
        broken = bool(response.length) or response.cut
    except (http.client.HTTPException, OSError):
        broken = True
    if broken:
        connection.abort()
        raise ClientDisconnected("the response broke off")
    await connection.send(h11.EndOfMessage())


async def _refuse(connection: Connection, status: int, reason: str) -> None:
    await connection.respond(status, [("content-type", "application/json")], json.dumps({"message": reason}).encode())


async def _run(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    for signal_number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    service = (options.service, options.region) if options.region else None
    try:
        async with proxying(options.url, options.port, service) as url:
            print(f"{url} sends signed requests to {options.url}", flush=True)
            print("Press Ctrl-C to stop. Only programs of this machine can use it.", flush=True)
            await stop.wait()
    except (ListenError, RequestError) as error:
        print(f"proxy: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 after a signal, 1 if it could not start."""
    parser = argparse.ArgumentParser(prog="python -m local.proxy", description=__doc__)
    parser.add_argument("url", help="URL of the deployed function or REST API")
    parser.add_argument("--port", type=int, default=3000, help="port of the URL on localhost (default: 3000)")
    parser.add_argument("--service", choices=("lambda", "execute-api"), default="lambda", help="with --region")
    parser.add_argument("--region", default="", help="region to sign for (default: the one in the host of URL)")
    return asyncio.run(_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
