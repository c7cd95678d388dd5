"""The probe: what it measures, what it refuses, and how it signs."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.local.conftest import PATIENCE, PROJECT, Serve

from local import probe as probe_module
from local.probe import ProbeError, Result, main, probe

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = """
    import time

    def handler(event, context):
        yield b"one\\n"
        time.sleep(0.4)  # what is probed
        yield b"two \\x1b[31m\\n"
    """
Answer = Callable[..., str]


@pytest.fixture
def answer() -> Iterator[Answer]:
    """Serves one connection with these pieces, where a number is seconds between two of them; gives the URL."""
    with ExitStack() as stack:

        def start(*pieces: bytes | float) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(PATIENCE)
            never = threading.Event()

            def serve() -> None:
                client, _ = listener.accept()
                with client:
                    client.settimeout(PATIENCE)
                    client.recv(65536)
                    for piece in pieces:
                        if isinstance(piece, bytes):
                            client.sendall(piece)
                        else:
                            never.wait(piece)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            return f"http://127.0.0.1:{listener.getsockname()[1]}/"

        yield start


def test_each_chunk_has_the_time_it_arrived(serve: Serve) -> None:
    result = probe(serve(STREAM).url)
    assert (result.status, result.error) == (200, "")
    assert ("content-type", "application/octet-stream") in [(name.lower(), value) for name, value in result.headers]
    assert [data for _, data in result.chunks] == [b"one\n", b"two \x1b[31m\n"]
    (first, _), (second, _) = result.chunks
    assert 0 < result.head_at <= first
    assert second - first >= 0.1
    assert result.streamed


def test_a_streaming_response_passes_and_its_chunks_are_shown(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    url = serve(STREAM).url
    assert main(["--expect-streaming", url]) == 0
    output, errors = capsys.readouterr()
    first, status, one, two, total = output.splitlines()
    assert (first, errors) == (f"GET {url}", "")
    assert re.fullmatch(r"200 OK after \d+\.\d{3} s", status)
    assert re.fullmatch(r" +\d+\.\d{3} s +4 bytes  one", one)
    assert re.fullmatch(r" +\d+\.\d{3} s +10 bytes  'two \\x1b\[31m'", two)  # nothing reaches the terminal raw
    assert re.fullmatch(r"14 bytes in 2 chunks, \d+\.\d{3} s", total)


FAILURES: dict[str, tuple[tuple[bytes | float, ...], str]] = {
    "all at once": ((HEAD + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n",), "did not stream"),
    "head early, body at once": ((HEAD, 0.2, b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"), "did not stream"),
    "end late": ((HEAD + b"1\r\na\r\n", 0.2, b"0\r\n\r\n"), "did not stream"),
    "no body": ((b"HTTP/1.1 204 No Content\r\n\r\n",), "did not stream"),
    "broken off": ((HEAD + b"1\r\na\r\n", 0.2, b"1\r\nb\r\n"), "the response broke off: IncompleteRead"),
    "broken off in a chunk": ((HEAD + b"1\r\na\r\n", 0.2, b"9\r\nb"), "the response broke off: IncompleteRead"),
    "shorter than its length": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na", 0.2, b"b"),
        "the response broke off: 7 bytes are missing",
    ),
    "bad status": (
        (HEAD.replace(b"200 OK", b"403 Forbidden") + b"1\r\na\r\n", 0.2, b"1\r\nb\r\n0\r\n\r\n"),
        "status 403",
    ),
    "no answer": ((b"",), "no response from http://127.0.0.1:"),
    "no HTTP": ((b"hello\r\n\r\n",), "no response from http://127.0.0.1:"),
}


@pytest.mark.parametrize(("pieces", "message"), FAILURES.values(), ids=FAILURES.keys())
def test_what_did_not_stream_fails_the_check(
    answer: Answer, pieces: tuple[bytes | float, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--expect-streaming", answer(*pieces)]) == 1
    assert capsys.readouterr().err.startswith(f"probe: {message}")


def test_a_buffered_response_is_good_where_streaming_is_not_expected(
    answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
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
def test_what_is_no_url_is_refused_without_a_traceback(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url]) == 1
    assert re.match("probe: .*URL|probe: no response", capsys.readouterr().err)


def test_a_refused_connection_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    assert main([url]) == 1
    assert capsys.readouterr().err.startswith(f"probe: no response from {url}: ")


def test_a_server_that_is_silent_is_given_up(answer: Answer) -> None:
    result = probe(answer(HEAD + b"1\r\na\r\n", 0.4), timeout=0.1)
    assert result.error == "the response broke off: TimeoutError"


def test_a_template_is_served_and_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = tmp_path / "template.yaml"
    properties = (
        f"{{CodeUri: '{PROJECT / 'src'}', Handler: app.handler, Environment: {{Variables: {{STREAM_INTERVAL: 0.02}}}}}}"
    )
    template.write_text(
        f"Resources: {{StreamFunction: {{Type: 'AWS::Serverless::Function', Properties: {properties}}}}}",
        encoding="utf-8",
    )
    assert main(["--expect-streaming", "--serve", str(template)]) == 0
    assert "bytes in 11 chunks" in capsys.readouterr().out
    assert main(["--serve", str(tmp_path / "other.yaml")]) == 1
    assert capsys.readouterr().err.startswith("probe: no template at ")


@pytest.mark.parametrize("arguments", [[], ["http://localhost/", "--serve", "template.yaml"], ["--no-such-option"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Credentials in the environment, and none anywhere else."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    return monkeypatch


DEPLOYED = "abc123.lambda-url.eu-central-1.on.aws"


def test_a_request_to_a_deployed_url_is_signed_for_lambda_in_its_region(credentials: pytest.MonkeyPatch) -> None:
    credentials.setenv("AWS_SESSION_TOKEN", "token")
    credentials.setenv("AWS_DEFAULT_REGION", "us-east-1")
    headers = probe_module._signature(f"https://{DEPLOYED}/path?a=1", DEPLOYED)
    assert re.fullmatch(r"\d{8}T\d{6}Z", headers["X-Amz-Date"])
    assert headers["X-Amz-Security-Token"] == "token"
    assert re.fullmatch(
        rf"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{headers['X-Amz-Date'][:8]}/eu-central-1/lambda/aws4_request, "
        r"SignedHeaders=host;x-amz-date;x-amz-security-token, Signature=[0-9a-f]{64}",
        headers["Authorization"],
    )


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "example.com", f"{DEPLOYED}.example.com", "a.b.lambda-url.eu-central-1.on.aws"],
)
def test_a_request_to_any_other_host_is_not_signed(credentials: pytest.MonkeyPatch, host: str) -> None:
    assert probe_module._signature(f"https://{host}/", host) == {}


def test_a_request_without_credentials_is_sent_unsigned_and_says_so(
    credentials: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    credentials.delenv("AWS_ACCESS_KEY_ID")
    credentials.delenv("AWS_SECRET_ACCESS_KEY")
    assert probe_module._signature(f"https://{DEPLOYED}/", DEPLOYED) == {}
    assert capsys.readouterr().err == "probe: no AWS credentials found; the request is not signed\n"


def test_credentials_that_cannot_be_used_are_a_probe_error(credentials: pytest.MonkeyPatch) -> None:
    credentials.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ProbeError, match=r"cannot sign the request: .*nobody"):
        probe_module._signature(f"https://{DEPLOYED}/", DEPLOYED)


@pytest.mark.parametrize(
    ("chunks", "error", "streamed"),
    [
        ([], "", False),
        ([0.0], "", False),
        ([0.0, 0.05], "", False),
        ([0.0, 0.1], "", True),
        ([0.0, 0.05, 0.2], "", True),
        ([5.0, 5.01], "", False),
        ([0.0, 0.2], "the response broke off", False),
    ],
)
def test_a_body_streamed_if_it_was_whole_and_spread_over_time(chunks: list[float], error: str, streamed: bool) -> None:
    assert Result(200, [], 0.0, [(at, b"x") for at in chunks], error).streamed == streamed


def test_an_interrupt_ends_it_without_a_traceback(serve: Serve) -> None:
    served = serve("def handler(event, context):\n    yield b'one'\n    tell(b'1')\n    wait()")
    command = [sys.executable, "-u", "-m", "local.probe", served.url]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    served.gate.write(b"1")
    assert lines[2].endswith(b"one\n")
    assert (process.returncode, errors) == (130, b"")
