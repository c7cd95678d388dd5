"""`python -m local.probe`: show when each chunk of a response arrives, and check that it streamed.

A request to a deployed function URL or API is signed (AWS Signature Version 4) if there are AWS credentials.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from .aws_limits import AWS_LIMITS
from .client import AWS_HOST, RequestError, Response, connection_to, signed_headers
from .events import EventError, read_event, request_from_event
from .function_url import LogWriter, running
from .http_server import join_values
from .template import TemplateError, load_function

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_RECEIVE_SIZE = 64 * 1024
_SILENCE = AWS_LIMITS["timeout"]["most"]  # seconds: no function runs for longer
_LONGEST_SILENCE = 24 * 60 * 60  # seconds
_MAX_ROWS = 40
_MIN_SPREAD = 0.1  # seconds
_MIN_SHARE_OF_TIME = 0.05
_MAX_SHARE_IN_HALF_THE_SPREAD = 0.9


class ProbeError(RequestError):
    """The request cannot be sent, or its response is not good."""


@dataclass
class Result:
    """A response and when it arrived. Times are seconds since the request began, connecting included."""

    status: int
    headers: list[tuple[str, str]]
    head_at: float
    chunks: list[tuple[float, bytes]] = field(default_factory=list)  # arrival time and bytes of each read
    error: str = ""  # why the body is incomplete; empty if it is complete
    total: float = 0.0  # when the response ended
    signed: bool = False  # whether the request was signed

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(len(data) for _, data in self.chunks)

    @property
    def throughput(self) -> float | None:
        """Bytes per second from the first byte to the last; None if they arrived together."""
        spread = self.chunks[-1][0] - self.chunks[0][0] if self.chunks else 0.0
        return self.size / spread if spread else None

    @property
    def gaps(self) -> dict[str, float] | None:
        """Seconds between chunks: percentiles (nearest rank) and the maximum; None for fewer than two chunks."""
        gaps = sorted(after - before for (before, _), (after, _) in pairwise(self.chunks))
        ranks = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
        return {name: gaps[math.ceil(len(gaps) * rank / 100) - 1] for name, rank in ranks.items()} if gaps else None

    @property
    def streamed(self) -> bool:
        """Whether the body is complete and arrived spread over time."""
        return not self.error and not why_buffered(self.chunks)

    def to_json(self) -> str:
        """Return a JSON object of everything but the bytes."""
        first = self.chunks[0][0] if self.chunks else None
        chunks = [{"at": at, "size": len(data)} for at, data in self.chunks]
        computed = {"first_byte_at": first, "bytes": self.size, "gaps": self.gaps, "throughput": self.throughput}
        return json.dumps({**vars(self), **computed, "chunks": chunks, "streamed": self.streamed})


def why_buffered(chunks: list[tuple[float, bytes]]) -> str:
    """Return why `chunks` do not look like a stream; empty if they do.

    Three rules tell a stream from a buffered body:

    - At least 0.1 s pass between the first byte and the last. What a buffer held back arrives within less.
    - That spread is at least 5 % of the time since the request, so that two late bursts do not pass.
    - No half of the spread, wherever it begins, holds more than 90 % of the bytes. So one early byte, or heartbeats,
      do not pass if all the rest arrives at the end.

    Two real streams fail as well: progress lines before a result ten times their size, which no clock can tell from
    heartbeats before a buffered body, and a short stream after a long silence. Probe a longer stream instead.

    Args:
        chunks: Arrival time in seconds since the request, and bytes, of each chunk.
    """
    if not chunks:
        return "the body is empty"
    first, last = chunks[0][0], chunks[-1][0]
    spread = last - first
    if spread < _MIN_SPREAD:
        return f"the body arrived within {spread:.3f} s, less than {_MIN_SPREAD} s, {first:.3f} s after the request"
    if spread < _MIN_SHARE_OF_TIME * last:
        return (
            f"the body arrived within {spread:.3f} s, less than {_MIN_SHARE_OF_TIME:.0%} of the {last:.3f} s in total"
        )
    size = sum(len(data) for _, data in chunks)
    start = held = 0
    for at, data in chunks:
        held += len(data)
        while at - chunks[start][0] > spread / 2:
            held -= len(chunks[start][1])
            start += 1
        if held / size > _MAX_SHARE_IN_HALF_THE_SPREAD:
            begin = chunks[start][0]
            share = math.floor(1000 * held / size) / 10  # rounded down, because some bytes arrived outside
            return (
                f"{share} % of the body arrived within {at - begin:.3f} s, {begin - first:.3f} s after the first byte"
            )
    return ""


def probe(
    url: str,
    method: str = "",
    headers: Iterable[tuple[str, str]] = (),
    data: bytes | None = None,
    timeout: float = _SILENCE,
    sign: bool = True,
    console: Console | None = None,
    observe: Callable[[float, int], object] | None = None,
) -> Result:
    """Send a request to `url` and read the response as it arrives.

    Args:
        url: An `http` or `https` URL.
        method: By default POST with `data`, else GET.
        headers: More headers; values of equal names are joined.
        data: Body of the request.
        timeout: How many seconds may pass without a byte.
        sign: Whether to sign a request to AWS that has no `Authorization` header.
        console: Where to show the response as it arrives.
        observe: Called with the arrival time and the size of each chunk, which is then not kept.

    Raises:
        ProbeError: The request cannot be sent, or gets no response.
    """
    console = console or Console(quiet=True)
    method = method or ("GET" if data is None else "POST")
    sent = {"user-agent": "lambda-stream-probe", **join_values((name.lower(), value) for name, value in headers)}
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ProbeError(f"the URL must begin with http:// or https:// and a host, got {url!r}")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ProbeError(f"percent-encode spaces and characters outside of ASCII in the URL, got {url!r}")
        if not 0 < timeout <= _LONGEST_SILENCE:
            raise ProbeError(f"the timeout must be more than 0 and at most {_LONGEST_SILENCE} seconds, got {timeout}")
        signature = signed_headers(method, parts, sent, data) if sign and "authorization" not in sent else {}
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection, base, authorization = connection_to(parts, timeout)
        with contextlib.closing(connection):
            start = time.perf_counter()
            connection.request(method, base + target, data, {**sent, **signature, **authorization})
            response = connection.getresponse()
            assert isinstance(response, Response)
            head_at = time.perf_counter() - start
            result = Result(response.status, response.getheaders(), head_at, signed="authorization" in signature)
            _show(console, f"{method} {url}")
            _show(console, f"{response.status} {response.reason} after {head_at:.3f} s")
            try:
                while received := response.read1(_RECEIVE_SIZE):
                    at = time.perf_counter() - start
                    if observe is not None:
                        observe(at, len(received))
                        continue
                    result.chunks.append((at, received))
                    text = received[: 4 * console.width].decode(errors="replace").rstrip("\r\n")
                    _show(console, f"{at:8.3f} s {len(received):8} bytes  {text}")
            except (http.client.HTTPException, OSError) as error:
                result.error = f"the response is incomplete: {type(error).__name__}"
            if response.length:  # http.client accepts the end of the connection as the end of the body
                result.error = f"the response is incomplete: {response.length} bytes are missing"
            elif response.cut and not result.error:
                result.error = "the response is incomplete: the connection closed too early"
            result.total = time.perf_counter() - start
            return result
    except RequestError as error:
        raise ProbeError(str(error)) from error
    except (http.client.HTTPException, OSError, ValueError) as error:  # ValueError: not a URL, or not a header
        raise ProbeError(f"no response from {url}: {error or type(error).__name__}") from error


def _plain(text: str) -> str:
    """Escape control characters, because headers and bodies may contain terminal escape sequences."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _show(console: Console, text: str, bar: str = "") -> None:
    console.print(Text(_plain(text)).append(bar, "green"), no_wrap=True, overflow="ellipsis")


def _show_figures(console: Console, result: Result) -> None:
    """Draw the wait for each chunk as a bar, so that a stream looks like stairs; then print the figures."""
    step = math.ceil(len(result.chunks) / _MAX_ROWS) or 1
    merged = [result.chunks[start : start + step] for start in range(0, len(result.chunks), step)]
    rows = [(f"{sum(len(data) for _, data in chunks)} bytes", chunks[-1][0]) for chunks in merged]
    _show(console, f"{step} chunks a row:" if step > 1 else "")
    begin = 0
    for label, at in [("head", result.head_at), *rows]:
        end = int((console.width - 28) * at / result.total)
        _show(console, f"{at:8.3f} s {label:>14}  ", " " * begin + "━" * (end - begin + 1))
        begin = end
    _show(console, f"{result.size} bytes in {len(result.chunks)} chunks, {result.total:.3f} s")
    if result.gaps and result.throughput:
        _show(console, f"first byte after {result.chunks[0][0]:.3f} s, then {result.throughput:.0f} bytes/s")
        _show(console, "gaps: " + ", ".join(f"{name} {gap:.3f} s" for name, gap in result.gaps.items()))


def _check(result: Result, url: str, expect_streaming: bool, expect_sign_in: bool, expect_refusal: bool) -> None:
    if result.error:
        raise ProbeError(result.error)
    if expect_refusal:
        if result.status != 403:
            raise ProbeError(f"a request that is not signed must be refused with status 403, got {result.status}")
        return
    if expect_sign_in:
        # A function URL and a REST API put a prefix before the name of this header.
        challenges = [value for name, value in result.headers if name.lower().endswith("www-authenticate")]
        if result.status != 401 or not any(value.startswith("Bearer") for value in challenges):
            raise ProbeError(f"a request without a token must be refused with status 401, got {result.status}")
        return
    if result.status == 403 and AWS_HOST.fullmatch(urlsplit(url).hostname or ""):
        hint = "it was not signed: there are no AWS credentials, or --no-sign was used"
        if result.signed:
            hint = "it was signed; a function URL requires the permissions lambda:InvokeFunctionUrl and, since October"
            hint += " 2025, lambda:InvokeFunction, and an API execute-api:Invoke"
        raise ProbeError(f"the request was refused with status 403; {hint}")
    if result.status >= 400:
        raise ProbeError(f"the response has status {result.status}")
    if expect_streaming and (reason := why_buffered(result.chunks)):
        raise ProbeError(f"the response did not stream: {reason}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    It is 0 for a complete, successful response that also streamed if that was expected, 130 if interrupted, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m local.probe", description=__doc__)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("url", nargs="?", help="URL to send a request to")
    target.add_argument("--serve", type=Path, metavar="TEMPLATE", help="serve this template's function and probe it")
    parser.add_argument("--expect-streaming", action="store_true", help="fail unless the body arrives spread over time")
    parser.add_argument(
        "--expect-sign-in", action="store_true", help="fail unless the request is refused because it has no token"
    )
    parser.add_argument(
        "--expect-refusal", action="store_true", help="fail unless the request, which is not signed, is refused"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object; times are in seconds")
    parser.add_argument("--method", type=str.upper, choices=_METHODS, help="default: POST with --data, else GET")
    parser.add_argument("--header", type=header, action="append", default=[], help="'Name: value'; repeatable")
    parser.add_argument("--data", type=_data, metavar="TEXT", help="body to send; @FILE reads it from a file")
    parser.add_argument("--event", metavar="FILE", help="send the request of this event to its path below URL")
    parser.add_argument(
        "--timeout", type=float, default=_SILENCE, help="seconds without a byte to wait (default: %(default)s)"
    )
    parser.add_argument("--no-sign", action="store_false", dest="sign", help="do not sign the request")
    options = parser.parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # its encoding may lack characters of a bar or body
    console = Console(quiet=options.json)
    try:
        with contextlib.ExitStack() as stack:
            url = options.url
            if options.serve is not None:
                function = load_function(options.serve, "StreamFunction")
                url = stack.enter_context(running(function, observer=LogWriter(sys.stderr)))
            method, headers, data = options.method, options.header, options.data
            if options.event is not None:
                event_method, path, event_headers, body = request_from_event(read_event(options.event))
                url = url.rstrip("/") + path
                method, headers = method or event_method, [*event_headers.items(), *headers]
                data = body if data is None else data
            sign = options.sign and not options.expect_sign_in and not options.expect_refusal
            result = probe(url, method, headers, data, options.timeout, sign, console)
        if options.json:
            print(result.to_json())
        _show_figures(console, result)
        _check(result, url, options.expect_streaming, options.expect_sign_in, options.expect_refusal)
    except (EventError, ProbeError, TemplateError) as error:
        print(f"probe: {_plain(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT
    return 0


def header(text: str) -> tuple[str, str]:
    """Return the header that an option of the command line names.

    Raises:
        argparse.ArgumentTypeError: It is not one.
    """
    match = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([ -~\t]*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be 'Name: value' in ASCII, got {text!r}")
    return match[1], match[2].strip()


def _data(text: str) -> bytes:
    try:
        return Path(text[1:]).read_bytes() if text.startswith("@") else text.encode(errors="surrogateescape")
    except (OSError, ValueError) as error:  # ValueError: not a file name
        raise argparse.ArgumentTypeError(f"cannot read {text[1:]!r}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
