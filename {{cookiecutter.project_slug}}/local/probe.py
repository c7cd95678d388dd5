"""`python -m local.probe`: shows when each chunk of a response arrives, and checks that it streamed.

A request to a deployed function URL is signed (AWS Signature Version 4) when AWS credentials are at hand.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from .server import running
from .template import TemplateError, load_function

_DEPLOYED = re.compile(r"[^.]+\.lambda-url\.([^.]+)\.on\.aws")
_RECEIVE_SIZE = 64 * 1024
# Bytes that the network or a buffer held back arrive closer together than this.
_STREAMING_SPREAD = 0.1  # seconds


class ProbeError(Exception):
    """The URL cannot be asked."""


@dataclass
class Result:
    """What arrived, and when: times are seconds since the request was sent.

    Attributes:
        status: HTTP status.
        headers: Response headers.
        head_at: When the head arrived.
        chunks: When some bytes of the body arrived, and the bytes.
        error: Why the body is not whole; empty if it is.
    """

    status: int
    headers: list[tuple[str, str]]
    head_at: float
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    error: str = ""

    @property
    def streamed(self) -> bool:
        """Whether the body was whole and arrived spread over time."""
        return not self.error and bool(self.chunks) and self.chunks[-1][0] - self.chunks[0][0] >= _STREAMING_SPREAD


def probe(url: str, timeout: float = 900, show: bool = False) -> Result:
    """Sends GET to `url` and takes the response as it arrives; prints it as well if `show`.

    Args:
        url: An `http` or `https` URL.
        timeout: Seconds that may pass without a byte.

    Raises:
        ProbeError: There is no response at all.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ProbeError(f"not a URL: {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ProbeError(f"not an http or https URL: {url!r}")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ProbeError(f"what is not ASCII, and every space, must be percent-encoded in a URL: {url!r}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, port, timeout=timeout)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        headers = {"user-agent": "lambda-stream-probe", **_signature(url, parts.hostname)}
        start = time.perf_counter()
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        result = Result(response.status, response.getheaders(), time.perf_counter() - start)
        if show:
            print(f"GET {url}\n{response.status} {response.reason} after {result.head_at:.3f} s", flush=True)
        try:
            while data := response.read1(_RECEIVE_SIZE):
                result.chunks.append((time.perf_counter() - start, data))
                if show:
                    _show(*result.chunks[-1])
        except (http.client.HTTPException, OSError) as error:
            result.error = f"the response broke off: {type(error).__name__}"
        if response.length:  # http.client takes the end of the connection for the end of the body
            result.error = f"the response broke off: {response.length} bytes are missing"
        return result
    except (http.client.HTTPException, OSError, UnicodeError) as error:  # UnicodeError: no name of a host
        raise ProbeError(f"no response from {url}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if the response is whole, has a good status and, if asked, streamed; else 1.

    130 if it was interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m local.probe", description=__doc__)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("url", nargs="?", help="URL to send a GET request to")
    target.add_argument("--serve", type=Path, metavar="TEMPLATE", help="serve this template's function, and ask that")
    parser.add_argument("--expect-streaming", action="store_true", help="fail unless the body arrives spread over time")
    options = parser.parse_args(arguments)
    try:
        with contextlib.ExitStack() as stack:
            url = options.url
            if options.serve is not None:
                url = stack.enter_context(running(load_function(options.serve, "StreamFunction")))
            result = probe(url, show=True)
    except (ProbeError, TemplateError) as error:
        print(f"probe: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    size = sum(len(data) for _, data in result.chunks)
    end = result.chunks[-1][0] if result.chunks else result.head_at
    print(f"{size} bytes in {len(result.chunks)} chunks, {end:.3f} s")
    if result.error:
        print(f"probe: {result.error}", file=sys.stderr)
    elif result.status >= 400:
        print(f"probe: status {result.status}", file=sys.stderr)
    elif options.expect_streaming and not result.streamed:
        print(f"probe: did not stream: the body came within {_STREAMING_SPREAD} s", file=sys.stderr)
    else:
        return 0
    return 1


def _show(seconds: float, data: bytes) -> None:
    text = data.decode(errors="replace").rstrip("\n")[:100]
    print(f"{seconds:8.3f} s {len(data):7} bytes  {text if text.isprintable() else repr(text)}", flush=True)


def _signature(url: str, host: str) -> dict[str, str]:
    deployed = _DEPLOYED.fullmatch(host)
    if deployed is None:
        return {}
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    request = AWSRequest("GET", url)
    try:
        credentials = Session().get_credentials()
        if credentials is None:
            print("probe: no AWS credentials found; the request is not signed", file=sys.stderr)
            return {}
        SigV4Auth(credentials, "lambda", deployed[1]).add_auth(request)
    except BotoCoreError as error:
        raise ProbeError(f"cannot sign the request: {error}") from error
    return dict(request.headers.items())


if __name__ == "__main__":
    sys.exit(main())
