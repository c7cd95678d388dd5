"""The probe: what it measures, what it rejects, and how it signs."""

from __future__ import annotations

import functools
import hashlib
import hmac
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pytest
from rich.cells import cell_len
from rich.console import Console
from tests.helpers.support import TEMPLATE
from tests.local.conftest import TIMEOUT, Serve

from local.probe import ProbeError, Result, _show_figures, main, probe, why_buffered

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = """
    import time

    def handler(event, context):
        yield b"one\\n"
        time.sleep(0.4)  # what is probed
        yield b"two \\x1b[31m\\n"
    """
STREAMED = (HEAD + b"1\r\na\r\n", 0.1, b"1\r\nb\r\n0\r\n\r\n")


class Answer:
    """Serves one connection for each call with these pieces, where a number is a pause in seconds; returns the URL.

    Attributes:
        requests: Head and body of each request.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self._stack = stack

    def __call__(self, *pieces: bytes | float, host: str = "127.0.0.1") -> str:
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(TIMEOUT)
        never = threading.Event()

        def serve() -> None:
            client, _ = listener.accept()
            with client, client.makefile("rb") as received:
                client.settimeout(TIMEOUT)
                head = "".join(iter(lambda: received.readline().decode(), "\r\n"))
                length = re.search(r"(?i)^content-length: (\d+)", head, re.MULTILINE)
                self.requests.append((head, received.read(int(length[1]) if length else 0)))
                for piece in pieces:
                    if isinstance(piece, bytes):
                        client.sendall(piece)
                    else:
                        never.wait(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(never.set)
        return f"http://{host}:{listener.getsockname()[1]}/"


@pytest.fixture
def answer(stack: ExitStack) -> Answer:
    return Answer(stack)


@pytest.fixture(autouse=True)
def console(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make the tests independent of the terminal and the proxies that they run with."""
    proxies = [f"{kind}_proxy" for kind in ("http", "https", "all", "no")]
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", *proxies, *map(str.upper, proxies)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return monkeypatch


def test_chunks_have_arrival_times(serve: Serve) -> None:
    result = probe(serve(STREAM).url)
    assert (result.status, result.error) == (200, "")
    assert ("content-type", "application/octet-stream") in [(name.lower(), value) for name, value in result.headers]
    assert [data for _, data in result.chunks] == [b"one\n", b"two \x1b[31m\n"]
    (first, _), (second, _) = result.chunks
    assert 0 < result.head_at <= first
    assert second - first >= 0.1
    assert result.streamed


def test_streaming_response_is_shown(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    url = serve(STREAM).url
    assert main(["--expect-streaming", url]) == 0
    output, errors = capsys.readouterr()
    first, status, one, two, _, *waterfall, total, speed, gaps = output.splitlines()
    assert (first, errors) == (f"GET {url}", "")
    assert re.fullmatch(r"200 OK after \d+\.\d{3} s", status)
    assert re.fullmatch(r" +\d+\.\d{3} s +4 bytes  one", one)
    assert re.fullmatch(r" +\d+\.\d{3} s +10 bytes  two \\x1b\[31m", two)
    assert [line.split()[2:-1] for line in waterfall] == [["head"], ["4", "bytes"], ["10", "bytes"]]
    assert re.fullmatch(r"14 bytes in 2 chunks, \d+\.\d{3} s", total)
    assert re.fullmatch(r"first byte after \d+\.\d{3} s, then \d+ bytes/s", speed)
    assert re.fullmatch(r"gaps: p50 (0\.\d{3}) s, p90 \1 s, p99 \1 s, max \1 s", gaps)


def test_waterfall_is_a_staircase() -> None:
    shown = io.StringIO()
    result = Result(200, [], 1.0, chunks((1.0, 5), (2.0, 5), (4.0, 5)), total=4.0)
    _show_figures(Console(file=shown, width=32), result)
    assert shown.getvalue().splitlines() == [
        "",
        "   1.000 s           head  ━━",
        "   1.000 s        5 bytes   ━",
        "   2.000 s        5 bytes   ━━",
        "   4.000 s        5 bytes    ━━━",
        "15 bytes in 3 chunks, 4.000 s",
        "first byte after 1.000 s, then …",
        "gaps: p50 1.000 s, p90 2.000 s,…",
    ]


def test_many_chunks_share_rows(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([answer(HEAD + b"2\r\nab\r\n" * 81 + b"0\r\n\r\n")]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if "━" in line]
    assert "3 chunks a row:" in lines
    assert [row.split()[2:4] for row in rows[1:]] == [["6", "bytes"]] * 27


HOSTILE = "\x1b]0;title\x07\x1b[2J [red]bold[/red] :smile: \r\t\x9b31m\u202e\u200d漢字 👍🏽 " + "宽" * 200


@pytest.mark.parametrize("columns", ["10", "40", "80", "81"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_output_is_escaped_and_fits(
    answer: Answer, console: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str, encoding: str
) -> None:
    console.setenv("COLUMNS", columns)
    body = HOSTILE.encode(encoding, "replace")
    head = b"HTTP/1.1 200 \x1b[31mOK\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert main([answer(head + body)]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert all(line.isprintable() for line in lines)
    assert max(map(cell_len, lines)) <= int(columns)
    assert int(columns) - cell_len(lines[2]) <= 1  # the body goes on to the edge, but for half a wide character
    if columns == "81":
        assert r"200 \x1b[31mOK after" in "\n".join(lines)
        assert r"\x1b]0;title\x07\x1b[2J [red]bold[/red] :smile:" in "\n".join(lines)


def test_errors_are_escaped(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([answer(b"\x1b[31mhello\r\n\r\n")]) == 1
    assert main(["http://\x1b[31m/"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_bars_coloured_on_terminal_only(
    answer: Answer, console: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([answer(*STREAMED)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    console.setenv("FORCE_COLOR", "1")
    console.setenv("TERM", "xterm-256color")
    assert main([answer(*STREAMED)]) == 0
    assert "\x1b[32m━" in capsys.readouterr().out


def test_ascii_output_encoding(answer: Answer) -> None:
    command = [sys.executable, "-m", "local.probe", answer(HEAD + "2\r\né\r\n0\r\n\r\n".encode())]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=TEMPLATE, env=environment, capture_output=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b" 2 bytes  ?\n" in done.stdout


def test_json_output(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a\r\nSet-Cookie: \xe4\r\n\r\n")
    assert main(["--json", "--expect-streaming", answer(head + b"1\r\na\r\n", 0.4, b"2\r\nbc\r\n0\r\n\r\n")]) == 0
    output, errors = capsys.readouterr()
    shown = json.loads(output)
    assert errors == ""
    first, second = shown["chunks"]
    assert (first["size"], second["size"]) == (1, 2)
    assert shown["headers"][1:] == [["Set-Cookie", "a"], ["Set-Cookie", "ä"]]
    assert 0 < shown["head_at"] <= shown["first_byte_at"] == first["at"] < second["at"] <= shown["total"]
    gap = second["at"] - first["at"]
    assert shown["gaps"] == {"p50": gap, "p90": gap, "p99": gap, "max": gap}
    assert shown["throughput"] == 3 / gap
    assert [shown[name] for name in ("status", "bytes", "streamed", "error")] == [200, 3, True, ""]


def test_json_output_of_failures(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--expect-streaming", answer(b"HTTP/1.1 204 No Content\r\n\r\n")]) == 1
    output, errors = capsys.readouterr()
    shown = json.loads(output)
    assert errors == "probe: the response did not stream: the body is empty\n"
    assert [shown[name] for name in ("first_byte_at", "gaps", "throughput", "streamed")] == [None, None, None, False]
    assert main(["--json", answer(HEAD + b"1\r\na\r\n")]) == 1
    output, errors = capsys.readouterr()
    assert f"probe: {json.loads(output)['error']}\n" == errors == "probe: the response is incomplete: IncompleteRead\n"


def chunks(*arrivals: tuple[float, int]) -> list[tuple[float, bytes]]:
    return [(at, b"x" * size) for at, size in arrivals]


def test_gap_percentiles() -> None:
    instants = [0.0]
    for gap in [*range(1, 100), 1000]:
        instants.append(instants[-1] + gap)
    result = Result(200, [], 0.0, chunks(*((at, 1) for at in reversed([-at for at in instants]))))
    assert result.gaps == {"p50": 50, "p90": 90, "p99": 99, "max": 1000}


FAILURES: dict[str, tuple[tuple[bytes | float, ...], str]] = {
    "all together": (
        (HEAD + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n",),
        "the response did not stream: the body arrived within 0.0",
    ),
    "head early, body together": (
        (HEAD, 0.2, b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"),
        "the response did not stream: the body arrived within 0.0",
    ),
    "first byte early, the rest together": (
        (HEAD + b"1\r\na\r\n", 0.4, b"40\r\n" + b"b" * 64 + b"\r\n1\r\nc\r\n0\r\n\r\n"),
        "the response did not stream: 96.9 % of the body arrived within 0.0",
    ),
    "end late": ((HEAD + b"1\r\na\r\n", 0.2, b"0\r\n\r\n"), "the response did not stream: the body arrived within 0.0"),
    "no body": ((b"HTTP/1.1 204 No Content\r\n\r\n",), "the response did not stream: the body is empty"),
    "incomplete": ((HEAD + b"1\r\na\r\n", 0.2, b"1\r\nb\r\n"), "the response is incomplete: IncompleteRead"),
    "incomplete chunk": ((HEAD + b"1\r\na\r\n", 0.2, b"9\r\nb"), "the response is incomplete: IncompleteRead"),
    "shorter than its length": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na", 0.2, b"b"),
        "the response is incomplete: 7 bytes are missing",
    ),
    **{
        f"cut at {end!r}": (
            (HEAD + b"1\r\na\r\n" + end,),
            "the response is incomplete: the connection closed too early",
        )
        for end in (b"0", b"0\r", b"0\r\n", b"0\r\n\r", b"0\r\nX-A: 1", b"0\r\nX-A: 1\r\n")
    },
    **{
        f"cut head {head!r}": ((head,), "the response is incomplete: the connection closed too early")
        for head in (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX-A: 1\r\n", b"HTTP/1.1 200 OK\r\nX-A")
    },
    "bad status": (
        (HEAD.replace(b"200 OK", b"403 Forbidden") + b"1\r\na\r\n", 0.2, b"1\r\nb\r\n0\r\n\r\n"),
        "the response has status 403",
    ),
    "no answer": ((b"",), "no response from http://127.0.0.1:"),
    "no HTTP": ((b"hello\r\n\r\n",), "no response from http://127.0.0.1:"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("pieces", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_unstreamed_response_fails(
    answer: Answer, pieces: tuple[bytes | float, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--expect-streaming", answer(*pieces)]) == 1
    assert capsys.readouterr().err.startswith(f"probe: {message}")


def test_buffered_response_passes_by_default(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:3000",
        "ftp://localhost/",
        "http://",
        "http:///path",
        "http://localhost:port/",
        "http://localhost:99999/",
        "http://[::1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\u00e4",
        "http://127.0.0.1/\x00",
        "http://.../",
    ],
)
def test_invalid_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url]) == 1
    assert re.match("probe: .*URL|probe: no response", capsys.readouterr().err)


def test_refused_connection(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    assert main([url]) == 1
    assert capsys.readouterr().err.startswith(f"probe: no response from {url}: ")


def test_silent_server_times_out(stack: ExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    assert main(["--timeout", "0.1", url]) == 1
    assert capsys.readouterr().err == f"probe: no response from {url}: timed out\n"


def test_silent_body_times_out(answer: Answer) -> None:
    result = probe(answer(HEAD + b"1\r\na\r\n", TIMEOUT), timeout=0.5)
    assert result.error == "the response is incomplete: TimeoutError"


@pytest.mark.parametrize("timeout", ["nan", "inf", "1e30", "-1", "0"])
def test_invalid_timeout(timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--timeout={timeout}", "http://127.0.0.1:9/"]) == 1
    assert capsys.readouterr().err.startswith("probe: the timeout must be more than 0 and at most 86400 seconds, got ")


@pytest.mark.slow
def test_serve_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runtime").symlink_to(TEMPLATE / "runtime")
    template = tmp_path / "template.yaml"
    variables = "{STREAM_INTERVAL: 0.05, PYTHONVERBOSE: 1}"  # logs what it imports
    properties = f"{{CodeUri: '{TEMPLATE / 'src'}', Handler: app.handler, Environment: {{Variables: {variables}}}}}"
    template.write_text(
        f"Resources: {{StreamFunction: {{Type: 'AWS::Serverless::Function', Properties: {properties}}}}}",
        encoding="utf-8",
    )
    assert main(["--expect-streaming", "--serve", str(template)]) == 0
    assert "bytes in 11 chunks" in capsys.readouterr().out
    assert main(["--json", "--serve", str(template)]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 334  # the function's log goes to standard error
    assert main(["--serve", str(tmp_path / "other.yaml")]) == 1
    assert capsys.readouterr().err.endswith("name the template with --template\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments url --serve is required"),
        (["http://localhost/", "--serve", "template.yaml"], "argument --serve: not allowed with argument url"),
        (["--no-such-option"], "one of the arguments url --serve is required"),
        (
            ["http://localhost/", "--header", "no colon"],
            "argument --header: must be 'Name: value' in ASCII, got 'no",
        ),
        (
            ["http://localhost/", "--header", "a b: c"],
            "argument --header: must be 'Name: value' in ASCII, got 'a b",
        ),
        (["http://localhost/", "--header", "a: b\r\nc: d"], "argument --header: must be 'Name: value' in ASCII"),
        (["http://localhost/", "--header", "a: \u00e4"], "argument --header: must be 'Name: value' in ASCII"),
        (["http://localhost/", "--data", "@/no/such/file"], "argument --data: cannot read '/no/such/file': [Errno 2]"),
        (["http://localhost/", "--method", "BREW"], "argument --method: invalid choice: 'BREW'"),
        (["http://localhost/", "--timeout", "soon"], "argument --timeout: invalid float value: 'soon'"),
    ],
)
def test_invalid_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("usage: ")
    assert f"error: {message}" in errors.splitlines()[-1]


def test_method_headers_and_body(answer: Answer, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"\x00\xff")
    requests = [
        ([], "GET", b""),
        (["--data", "caf\u00e9"], "POST", "caf\u00e9".encode()),
        (["--data", f"@{path}"], "POST", b"\x00\xff"),
        (["--data", ""], "POST", b""),
        (["--data", "a", "--method", "put"], "PUT", b"a"),
        (
            ["--method", "DELETE", "--header", "X-A: 1", "--header", "x-a:2", "--header", "User-Agent:me"],
            "DELETE",
            b"",
        ),
    ]
    for arguments, method, body in requests:
        assert main([*arguments, answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")]) == 0
        head, received = answer.requests[-1]
        assert (head.split()[0], received) == (method, body)
    assert "\r\nx-a: 1,2\r\n" in head
    assert "\r\nuser-agent: me\r\n" in head


def test_event_request(answer: Answer, tmp_path: Path) -> None:
    post = str(TEMPLATE / "events" / "post.json")
    assert main(["--event", post, answer(OK)]) == 0
    head, body = answer.requests[-1]
    event = json.loads(Path(post).read_text(encoding="utf-8"))
    assert head.startswith(f"POST {event['rawPath']}?{event['rawQueryString']} HTTP/1.1\r\n")
    assert f"\r\ncookie: {'; '.join(event['cookies'])}\r\n" in head
    assert f"\r\ncontent-type: {event['headers']['content-type']}\r\n" in head
    assert not re.search("(?im)^(x-amzn-|x-forwarded-)", head)
    assert head.lower().count("\r\nhost: ") == head.lower().count("\r\ncontent-length: ") == 1
    assert body == b64decode(event["body"])
    # Options override the event, and headers are added.
    more = ["--method", "PUT", "--data", "mine", "--header", "X-A: 1"]
    assert main(["--event", post, *more, answer(OK) + "below/"]) == 0
    head, body = answer.requests[-1]
    assert head.startswith(f"PUT /below{event['rawPath']}?")
    assert "\r\nx-a: 1\r\n" in head
    assert body == b"mine"
    # A text body, and no body.
    plain = {"requestContext": {"http": {"method": "PATCH"}}, "rawPath": "/", "headers": {}, "body": "text"}
    for event, sent in ((plain, b"text"), ({**plain, "body": None}, b"")):
        (tmp_path / "event.json").write_text(json.dumps(event), encoding="utf-8")
        assert main(["--event", str(tmp_path / "event.json"), answer(OK)]) == 0
        head, body = answer.requests[-1]
        assert head.startswith("PATCH / HTTP/1.1\r\n")
        assert body == sent


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("", "event.json is not JSON"),
        ("[" * 100_000, "event.json is not JSON"),
        ("[]", "the event does not have the format of a function URL's event: TypeError"),
        (
            '{"version": "2.0"}',
            "function URL's event: KeyError('requestContext')",
        ),
    ],
)
def test_invalid_event(event: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "event.json").write_text(event, encoding="utf-8")
    assert main(["--event", str(tmp_path / "event.json"), "http://127.0.0.1:9/"]) == 1
    assert message in capsys.readouterr().err
    assert main(["--event", str(tmp_path / "none.json"), "http://127.0.0.1:9/"]) == 1
    assert capsys.readouterr().err.startswith("probe: cannot read the event: ")


PROXIED = "http://function.example"


def test_proxy_gets_absolute_url(answer: Answer, console: pytest.MonkeyPatch) -> None:
    proxy = answer(OK)
    console.setenv("http_proxy", proxy.replace("http://", "http://me:p%40ss@"))
    assert main([f"{PROXIED}/a?b=c"]) == 0
    ((head, _),) = answer.requests
    # RFC 9112, section 3.2.2, and RFC 7617
    assert head.startswith(f"GET {PROXIED}/a?b=c HTTP/1.1\r\nHost: function.example\r\n")
    assert f"\r\nproxy-authorization: Basic {b64encode(b'me:p@ss').decode()}\r\n" in head


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
def test_proxy_tunnels_https(answer: Answer, console: pytest.MonkeyPatch, variable: str) -> None:
    proxy = answer(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    console.setenv(variable, proxy.replace("http://", "me:secret@"))
    with pytest.raises(ProbeError, match="Tunnel connection failed: 403 Forbidden"):
        probe("https://function.example/")
    ((head, _),) = answer.requests
    assert head.startswith("CONNECT function.example:443 HTTP/1.")
    assert f"\r\nproxy-authorization: Basic {b64encode(b'me:secret').decode()}" in head


def test_tunnel_carries_tls(console: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        listener.settimeout(TIMEOUT)

        def serve() -> bytes:
            client, _ = listener.accept()
            with client:
                client.settimeout(TIMEOUT)
                while not client.recv(65536).endswith(b"\r\n\r\n"):
                    pass
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                return client.recv(65536)

        received = thread.submit(serve)
        console.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ProbeError, match="no response"):
            probe("https://function.example/")
    hello = received.result(TIMEOUT)
    assert hello.startswith(b"\x16\x03")  # a TLS handshake
    assert b"function.example" in hello  # with the name of the server behind the proxy


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("http://127.0.0.1:{port}/", ""),
        ("http://localhost:{port}/", ""),
        ("http://function.example:{port}/", "function.example"),
        ("http://a.function.example:{port}/", ".function.example"),
        ("http://function.example:{port}/", "*"),
    ],
)
@pytest.mark.usefixtures("resolved")
def test_direct_connection(answer: Answer, console: pytest.MonkeyPatch, url: str, no_proxy: str) -> None:
    port = urlsplit(answer(OK)).port
    console.setenv("http_proxy", "http://127.0.0.1:9/")  # an unused port
    console.setenv("no_proxy", no_proxy)
    probe(url.format(port=port))
    assert answer.requests[0][0].startswith("GET / HTTP/1.1\r\n")


@pytest.mark.usefixtures("resolved")
def test_proxied_request_is_signed(answer: Answer, console: pytest.MonkeyPatch) -> None:
    console.setenv("http_proxy", answer(OK))
    assert probe(f"http://{FUNCTION}/a?b").signed
    ((head, body),) = answer.requests
    assert verified(head.replace(f"http://{FUNCTION}", "", 1), body, "lambda").keys() == {"host", "x-amz-date"}


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "https://proxy.example", "http://", "http://a:b:c"])
def test_unsupported_proxy(console: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], proxy: str) -> None:
    console.setenv("http_proxy", proxy)
    assert main([PROXIED]) == 1
    assert capsys.readouterr().err == f"probe: the proxy must be http://HOST:PORT, got {proxy!r}\n"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Credentials in the environment, and nowhere else."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    return monkeypatch


FUNCTION = "abc123.lambda-url.eu-central-1.on.aws"
API = "abc123.execute-api.eu-central-1.amazonaws.com"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def resolved(credentials: pytest.MonkeyPatch) -> None:
    """Resolve every host name to this machine."""
    resolve = socket.getaddrinfo
    credentials.setattr(socket, "getaddrinfo", lambda _, *rest: resolve("127.0.0.1", *rest))


def verified(head: str, body: bytes, service: str) -> dict[str, str]:
    """Check a request's signature as AWS does; return the signed headers.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    request, *lines = head.splitlines()
    method, target, _ = request.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    found = re.fullmatch(
        rf"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/(\d{{8}})/eu-central-1/{service}/aws4_request, "
        r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
        headers["authorization"],
    )
    assert found is not None
    date, names, signature = found.groups()
    path, _, query = target.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    encoded = [
        tuple(quote(unquote_to_bytes(part.replace("+", " ")), safe="") for part in (name, value))
        for name, _, value in pairs
    ]
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/"),  # once more, although the path is encoded already
            "&".join(f"{name}={value}" for name, value in sorted(encoded)),
            *(f"{name}:{headers[name]}" for name in names.split(";")),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{date}/eu-central-1/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    for part in [*scope.split("/"), text]:
        key = hmac.digest(key, part.encode(), "sha256")
    assert key.hex() == signature
    assert headers["x-amz-date"].startswith(date)
    return {name: headers[name] for name in names.split(";")}


@pytest.mark.parametrize(("host", "service"), [(FUNCTION, "lambda"), (API, "execute-api")])
@pytest.mark.parametrize(
    "target",
    [
        "",
        "a/b",
        "caf%C3%A9/a%2Fb/%2520%20",
        "~user/a=b,c;d@e:f!g'(h)*",
        "?b=2&a=1&a=0&c",
        "?q=caf%C3%A9%20%2F%2b&%61=%e4",
        "?url=http://a/b,c&token=ab==&plus=a+b",
        "p?",
    ],
)
@pytest.mark.usefixtures("resolved")
def test_signature_matches_aws(
    answer: Answer, credentials: pytest.MonkeyPatch, host: str, service: str, target: str
) -> None:
    credentials.setenv("AWS_SESSION_TOKEN", "token")
    credentials.setenv("AWS_DEFAULT_REGION", "us-east-1")
    result = probe(answer(OK, host=host) + target)
    ((head, body),) = answer.requests
    assert head.split()[1] == f"/{target}".removesuffix("?")  # unchanged
    assert verified(head, body, service).keys() == {"host", "x-amz-date", "x-amz-security-token"}
    assert result.signed


@pytest.mark.usefixtures("resolved")
def test_body_and_headers_are_signed(answer: Answer) -> None:
    headers = [
        ("Content-Type", "text/plain"),
        ("X-Amz-Date", "20150830T123600Z"),
        ("X-A", "1"),
        ("x-a", "2  3"),
    ]
    probe(answer(OK, host=FUNCTION), headers=headers, data=b"\x00 body")
    ((head, body),) = answer.requests
    assert (head.split()[0], body) == ("POST", b"\x00 body")
    assert head.lower().count("x-amz-date:") == 1
    assert verified(head.replace("2  3", "2 3"), body, "lambda").keys() == {"content-type", "host", "x-a", "x-amz-date"}


@pytest.mark.parametrize(
    ("host", "arguments"),
    [
        ("127.0.0.1", []),
        ("localhost", []),
        ("example.com", []),
        (f"{FUNCTION}.example.com", []),
        (f"a.{FUNCTION}", []),
        (f"{API}.example.com", []),
        (FUNCTION, ["--no-sign"]),
    ],
)
@pytest.mark.usefixtures("resolved")
def test_other_requests_are_unsigned(answer: Answer, host: str, arguments: list[str]) -> None:
    assert main([*arguments, answer(OK, host=host)]) == 0
    assert not re.search("(?im)^(authorization|x-amz-)", answer.requests[0][0])


@pytest.mark.usefixtures("resolved")
def test_authorization_header_is_kept(answer: Answer) -> None:
    assert main(["--header", "Authorization: Bearer me", answer(OK, host=API)]) == 0
    assert "\r\nauthorization: Bearer me\r\n" in answer.requests[0][0]


@pytest.mark.parametrize(
    ("host", "arguments", "message"),
    [
        (
            FUNCTION,
            [],
            "request was refused with status 403; it was signed; .*FunctionUrl and.* lambda:InvokeFunction, .*",
        ),
        (
            FUNCTION,
            ["--no-sign"],
            "request was refused with status 403; it was not signed: there are no AWS credentials, .*",
        ),
        ("example.com", [], "response has status 403"),
    ],
)
@pytest.mark.usefixtures("resolved")
def test_403_names_required_permissions(
    answer: Answer, capsys: pytest.CaptureFixture[str], host: str, arguments: list[str], message: str
) -> None:
    assert main([*arguments, answer(FORBIDDEN, host=host)]) == 1
    assert re.fullmatch(f"probe: the {message}\n", capsys.readouterr().err)


@pytest.mark.usefixtures("resolved")
def test_unsigned_without_credentials(answer: Answer, credentials: pytest.MonkeyPatch) -> None:
    credentials.delenv("AWS_ACCESS_KEY_ID")
    credentials.delenv("AWS_SECRET_ACCESS_KEY")
    assert not probe(answer(OK, host=FUNCTION)).signed
    assert "authorization" not in answer.requests[0][0].lower()


def test_unusable_credentials(credentials: pytest.MonkeyPatch) -> None:
    credentials.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ProbeError, match=r"cannot sign the request: .*nobody"):
        probe(f"https://{FUNCTION}/")


TRICKLE = [(number / 100, 1) for number in range(31)]
PROGRESS = [(float(number), 100) for number in range(10)]
BODIES: dict[str, tuple[list[tuple[float, int]], str]] = {
    "no body": ([], "the body is empty"),
    "one chunk": ([(0.5, 9)], r"the body arrived within 0\.000 s, less than 0\.1 s, 0\.500 s after the request"),
    "two chunks, one after the other": ([(0.0, 5), (0.05, 5)], r"the body arrived within 0\.050 s, .*"),
    "two equal chunks": ([(0.0, 5), (0.4, 5)], ""),
    "0.1 s": ([(0.0, 5), (0.1, 5)], ""),
    "a little less than 0.1 s": ([(0.0, 5), (0.099, 5)], r"the body arrived within 0\.099 s, .*"),
    "a trickle": (TRICKLE, ""),
    "a late trickle": ([(at + 5, size) for at, size in TRICKLE], ""),
    "a trickle too late": (
        [(at + 6, size) for at, size in TRICKLE],
        r"the body arrived within 0\.300 s, less than 5% of the 6\.300 s in total",
    ),
    "two late bursts": (
        [(5.0, 5), (5.15, 5)],
        r"the body arrived within 0\.150 s, less than 5% of the 5\.150 s in total",
    ),
    "5 % of the time": ([(9.5, 5), (10.0, 5)], ""),
    "a byte, then the rest together": (
        [(0.5, 1), (3.7, 40), (3.705, 40), (3.71, 18)],
        r"98\.9 % of the body arrived within 0\.010 s, 3\.200 s after the first byte",
    ),
    "most together, then a byte": (
        [(0.5, 98), (3.7, 2)],
        r"98\.0 % of the body arrived within 0\.000 s, 0\.000 s after the first byte",
    ),
    "a byte, most together, a byte": ([(0.0, 1), (1.0, 98), (2.0, 1)], r"9\d\.\d % of the body arrived .*"),
    "90 % together": ([(0.0, 1), (1.0, 9)], ""),
    "a little more than 90 % together": ([(0.0, 99), (1.0, 901)], r"90\.1 % of the body arrived .*"),
    "90 % in exactly half the time": ([(0.0, 5), (1.0, 4), (2.0, 1)], ""),
    "more in exactly half the time": (
        [(0.0, 5), (1.0, 5), (2.0, 1)],
        r"90\.9 % of the body arrived within 1\.000 s, .*",
    ),
    "all but a byte": ([(0.0, 1), (1.0, 100_000)], r"99\.9 % of the body arrived .*"),
    "progress, then a result of that size": ([*PROGRESS, (10.0, 1000)], ""),
    "progress, then a result ten times its size": ([*PROGRESS, (10.0, 10_000)], r"9\d\.\d % of the body arrived .*"),
    "heartbeats, then all": ([(float(at), 8) for at in range(9)] + [(9.0, 5000)], r"9\d\.\d % of the body arrived .*"),
    "faster and faster": ([(10 - 10 / 2**number, 10) for number in range(6)], ""),
}


@pytest.mark.parametrize(("arrivals", "reason"), BODIES.values(), ids=BODIES.keys())
def test_streamed_if_spread_over_time(arrivals: list[tuple[float, int]], reason: str) -> None:
    assert re.fullmatch(reason, why_buffered(chunks(*arrivals)))
    assert Result(200, [], 0.0, chunks(*arrivals)).streamed == (reason == "")
    assert not Result(200, [], 0.0, chunks(*arrivals), "the response is incomplete").streamed


def test_interrupt(serve: Serve) -> None:
    served = serve("def handler(event, context):\n    yield b'one'\n    tell(b'1')\n    wait()")
    command = [sys.executable, "-u", "-m", "local.probe", served.url]
    # A script's background job ignores SIGINT, and its children inherit that.
    restore = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command,
        cwd=TEMPLATE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=restore,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    served.gate.write(b"1")
    assert lines[2].endswith(b"one\n")
    assert (process.returncode, errors) == (130, b"")


@pytest.mark.parametrize("option", ["--serve TEMPLATE", "--header HEADER", "--data TEXT", "--event FILE"])
def test_help_metavars(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    assert f"\n  {option} " in capsys.readouterr().out


def test_refused_request_is_expected(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    head = b"HTTP/1.1 401 Unauthorized\r\nx-amzn-remapped-www-authenticate: Bearer\r\ncontent-length: 1\r\n\r\n."
    assert main(["--expect-sign-in", answer(head)]) == 0
    assert main(["--expect-refusal", answer(head.replace(b"401 Unauthorized", b"403 Forbidden"))]) == 0
    assert main(["--expect-refusal", answer(head)]) == 1
    assert "must be refused with status 403, got 401" in capsys.readouterr().err
    for wrong in (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n.", head.replace(b"Bearer", b"Basic")):
        assert main(["--expect-sign-in", answer(wrong)]) == 1
        assert "a request without a token must be refused with status 401" in capsys.readouterr().err
