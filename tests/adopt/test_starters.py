"""Adopted applications through SAM's own tools, and streaming on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from tests.adopt.conftest import Adopt, lay_out
from tests.adopt.starters import FUNCTIONS, STARTERS
from tests.helpers.infrastructure import transformed
from tests.helpers.support import free_ports, run, user_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
HELLO = "HelloWorldFunction"
STREAM = """\
import time


def lambda_handler(event, context):
    for number in range(5):
        yield f"{number}\\n"
        time.sleep(0.2)
"""


@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize("url_auth", ["AWS_IAM", "NONE"])
def test_linters(adopt: Adopt, tmp_path: Path, starter: str, url_auth: str) -> None:
    application = lay_out(starter, tmp_path / "app")
    for function in FUNCTIONS[starter]:
        adopt(application, function=function, url_auth=url_auth)
    run("sam", "validate", "--lint", "--region", "us-east-1", cwd=application)
    plain = application / "transformed.json"
    resources = transformed(application)["Resources"]
    plain.write_text(json.dumps(transformed(application)))
    run("cfn-lint", "--regions", "us-east-1", "--", plain, cwd=application)
    [layer] = [name for name, of in resources.items() if name.startswith("StreamingRuntimeLayer")]
    for function in FUNCTIONS[starter]:
        properties = resources[function]["Properties"]
        assert properties["Layers"][-1] == {"Ref": layer}
        assert properties["Environment"]["Variables"]["AWS_LAMBDA_EXEC_WRAPPER"] == "/opt/bootstrap"


@pytest.mark.parametrize("alias", ["live", "!Ref Stage"])
def test_alias_passes_the_linter(adopt: Adopt, hello: Path, alias: str) -> None:
    template = hello / "template.yaml"
    text = template.read_text().replace("      Events:\n", f"      AutoPublishAlias: {alias}\n      Events:\n")
    template.write_text(text + "Parameters:\n  Stage: {Type: String, Default: live}\n")
    adopt(hello, function=HELLO, url_auth="NONE")
    run("sam", "validate", "--lint", "--region", "us-east-1", cwd=hello)
    (hello / "transformed.json").write_text(json.dumps(transformed(hello)))
    # W2001: the transform puts the parameter's value in its place.
    unused = ("--ignore-checks", "W2001")
    run("cfn-lint", "--regions", "us-east-1", *unused, "--", hello / "transformed.json", cwd=hello)


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Any:
    """Run `make -C streaming dev`; return the URL."""

    def serve(application: Path, function: str) -> str:
        port, inspector = free_ports(2)
        arguments = (f"FUNCTION={function}", f"PORT={port}", f"ARGS=--inspector-port {inspector}")
        process = subprocess.Popen(
            ["make", "-C", "streaming", "dev", *arguments],
            cwd=application,
            env=user_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

        def stop() -> None:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=30)

        request.addfinalizer(stop)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if f"http://127.0.0.1:{port}/" in line:
                return f"http://127.0.0.1:{port}/"
        pytest.fail("".join(lines))

    return serve


def test_generator_streams(adopt: Adopt, hello: Path, serve: Any) -> None:
    (hello / "hello_world" / "app.py").write_text(STREAM)
    adopt(hello, function=HELLO)
    url = serve(hello, HELLO)
    done = run("make", "-C", "streaming", "probe", f"URL={url}", cwd=hello)
    assert "10 bytes in 5 chunks" in done.stdout
    assert not [*(hello / "streaming" / "runtime").rglob("__pycache__")]


def test_dict_is_answered_as_before(adopt: Adopt, hello: Path, serve: Any) -> None:
    adopt(hello, function=HELLO)
    with urllib.request.urlopen(serve(hello, HELLO), timeout=30) as response:
        assert (response.status, json.load(response)) == (200, {"message": "hello world"})


def test_layer_of_the_application_is_found(adopt: Adopt, tmp_path: Path, serve: Any) -> None:
    """Also a wrapper of another layer, which is not on this machine, is in nobody's way."""
    application = lay_out("several", tmp_path / "app")
    for function in FUNCTIONS["several"]:
        adopt(application, function=function)
    with urllib.request.urlopen(serve(application, "ReportFunction"), timeout=30) as response:
        assert response.read() == b"shared"


def test_invoke(adopt: Adopt, tmp_path: Path) -> None:
    application = lay_out("tested", tmp_path / "app")
    adopt(application)
    (application / "event.json").write_text("{}")
    done = run("make", "-C", "streaming", "invoke", "EVENT=../event.json", cwd=application)
    assert "0\n1\n2\n3\n4\n" in done.stdout


def test_function_must_be_named(adopt: Adopt, tmp_path: Path) -> None:
    application = lay_out("several", tmp_path / "app")
    for function in FUNCTIONS["several"]:
        adopt(application, function=function)
    done = run("make", "-C", "streaming", "dev", cwd=application, check=False)
    assert "name an adopted function with FUNCTION=… (adopted: ChatFunction, ReportFunction)" in done.stderr
    assert "unknown option" in run("make", "-C", "streaming", "dev", "PROT=1", cwd=application, check=False).stderr


def invoke(layer: Path, code: Path, event: bytes, **variables: str) -> bytes:
    """Invoke a function under Lambda's emulator, which starts the layer as AWS's managed runtime would."""
    python = user_environment()["PATH"].partition(os.pathsep)[0] + "/python"
    tools = distribution("aws-sam-cli")
    [emulator] = [path for path in tools.files or () if path.name == "aws-lambda-rie-x86_64"]
    port, api = free_ports(2)
    process = subprocess.Popen(
        [
            *(str(tools.locate_file(emulator)), "--log-level", "error"),
            *("--runtime-interface-emulator-address", f"127.0.0.1:{port}", "--runtime-api-address", f"127.0.0.1:{api}"),
            *(str(layer / "bootstrap"), python, "/var/runtime/bootstrap.py"),
        ],
        cwd=code,
        env=user_environment(
            _HANDLER="app.lambda_handler",
            LAMBDA_TASK_ROOT=str(code),
            AWS_LAMBDA_FUNCTION_TIMEOUT="10",
            **variables,
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations"
        for _ in range(100):
            try:
                with urllib.request.urlopen(urllib.request.Request(url, event), timeout=20) as response:
                    body: bytes = response.read()
                    return body
            except urllib.error.URLError:
                assert process.poll() is None
                time.sleep(0.1)
        pytest.fail("the emulator does not answer")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("chained", [False, True])
def test_layer_under_the_emulator(adopt: Adopt, hello: Path, tmp_path: Path, chained: bool) -> None:
    """As Lambda starts it: the wrapper gets the command of the managed runtime, which it stands in for."""
    (hello / "hello_world" / "app.py").write_text(STREAM)
    adopt(hello, function=HELLO)
    layer = tmp_path / "opt"
    (hello / "streaming" / "runtime").rename(layer)
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\ntouch "{tmp_path}/wrapped"\nexec "$@"\n')
    wrapper.chmod(0o755)
    variables = {"STREAMING_RUNTIME_EXEC_WRAPPER": str(wrapper)} if chained else {}
    assert invoke(layer, hello / "hello_world", b"{}", **variables) == b"0\n1\n2\n3\n4\n"
    assert (tmp_path / "wrapped").exists() == chained


def http_event(domain: str) -> bytes:
    """Return as much of an event of payload format 2.0 as says where it is from."""
    own = domain.partition(".")[0]
    context = {"http": {}, "apiId": "a1", "domainPrefix": own, "domainName": domain}
    return json.dumps({"requestContext": context}).encode()


REST = b'{"httpMethod": "GET", "requestContext": {"resourcePath": "/hello"}}'
BALANCER = b'{"httpMethod": "GET", "requestContext": {"elb": {}}}'
API, CUSTOM = http_event("a1.execute-api.us-east-1.amazonaws.com"), http_event("api.example.com")
URL, LOCAL = http_event("a1.lambda-url.us-east-1.on.aws"), http_event("a1")


@pytest.mark.parametrize(
    ("event", "buffers"),
    [(REST, True), (BALANCER, True), (API, True), (CUSTOM, True), (URL, False), (LOCAL, False), (b"{}", True)],
)
def test_dict_for_an_api_that_buffers(adopt: Adopt, hello: Path, event: bytes, buffers: bool) -> None:
    """API Gateway answers HTTP metadata with a 502 unless it streams, and Step Functions read JSON only."""
    adopt(hello, function=HELLO)
    template = (hello / "template.yaml").read_text()
    assert 'STREAMING_RUNTIME_BUFFERED_CALLERS: "direct rest-api"\n' in template
    runtime, code = hello / "streaming" / "runtime", hello / "hello_world"
    body = invoke(runtime, code, event, STREAMING_RUNTIME_BUFFERED_CALLERS="direct rest-api")
    assert (b"\0" not in body and json.loads(body)["statusCode"] == 200) == buffers
