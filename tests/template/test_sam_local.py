"""Every file of `events/` through `sam local invoke`, in Docker, for each way to ship a function; and each example.

An image that checks tokens runs under Lambda's emulator, where it reaches an issuer on this machine.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.images import MANAGED, PROVIDED, ProvideImage, remove_rapid_image
from tests.helpers.issuers import AUDIENCE, local
from tests.helpers.support import OWN_ARCHITECTURE, ROOT, Bake, for_own_python, free_ports, run
from tests.template.test_emulator import EMULATOR, Emulator, assert_is_the_hello_stream

from local.template import Template

pytestmark = pytest.mark.slow

HELLO = [*map(str, range(1, 11)), "end"]


def set_variables(project: Path, **variables: str) -> Path:
    """Add variables to the template, since SAM passes no others to the function; return the project."""
    template = project / "template.yaml"
    text = template.read_text(encoding="utf-8")
    if "        Variables:\n" not in text:
        text = text.replace("      Tracing:", "      Environment:\n        Variables:\n      Tracing:")
    lines = "".join(f'          {name}: "{value}"\n' for name, value in variables.items())
    template.write_text(text.replace("        Variables:\n", f"        Variables:\n{lines}"), encoding="utf-8")
    return project


def invoke(project: Path, event: Path) -> tuple[Any, str]:
    """Return HTTP metadata and body of the response to an event."""
    command = ("sam", "local", "invoke", "StreamFunction", "--skip-pull-image", "--event", event)
    metadata, delimiter, body = run(*command, cwd=project).stdout.partition("\0" * 8)
    assert delimiter, f"{event}: {metadata}"
    return json.loads(metadata), body


def invoke_each_event(project: Path, engine: Any, image: str) -> dict[str, tuple[Any, str]]:
    """Return HTTP metadata and body for each event; remove the image that SAM derives from `image`."""
    answers = {event.stem: invoke(project, event) for event in sorted((project / "events").glob("*.json"))}
    remove_rapid_image(engine, image)
    return answers


def assert_all_are_the_hello_stream(answers: dict[str, tuple[Any, str]]) -> None:
    assert set(answers) == {"get", "post", "rest"}
    for metadata, body in answers.values():
        assert metadata == {"statusCode": 200, "headers": {"content-type": "text/plain; charset=utf-8"}, "cookies": []}
        assert [line.split()[0] for line in body.splitlines()] == HELLO


def test_managed_runtime_events(bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path) -> None:
    """The managed runtime starts the wrapper, which is the bootstrap."""
    project = for_own_python(bake(architecture=OWN_ARCHITECTURE, front_door="rest-api"))
    set_variables(project, STREAM_INTERVAL="0")
    run("sam", "build", cwd=project)
    provide_image(MANAGED, python_home)
    assert_all_are_the_hello_stream(invoke_each_event(project, engine, MANAGED))


def test_runtime_image(bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path, tmp_path: Path) -> None:
    """The image of docs/packaging.md in the place of AWS's own: the package has nothing but the user's code."""
    text = (ROOT / "docs" / "packaging.md").read_text(encoding="utf-8")
    [dockerfile] = re.findall(r"^```dockerfile\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    project = for_own_python(shutil.copytree(bake(architecture=OWN_ARCHITECTURE), tmp_path / "project"))
    (project / "Dockerfile.runtime").write_text(dockerfile, encoding="utf-8")
    set_variables(project, STREAM_INTERVAL="0")
    template = project / "template.yaml"
    wrapper = template.read_text(encoding="utf-8").replace("/var/task/bootstrap", "/var/runtime/streaming/bootstrap")
    template.write_text(wrapper, encoding="utf-8")
    run("sam", "build", cwd=project)
    package = project / ".aws-sam" / "build" / "StreamFunction"
    for path in package.iterdir():
        if path.name in ("bootstrap", "streaming_runtime", "front_door"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert {path.name for path in package.iterdir()} <= {"app.py", "__pycache__"}
    provide_image(MANAGED, python_home)
    version = MANAGED.rpartition(":")[2]
    engine.images.build(
        path=str(project), dockerfile="Dockerfile.runtime", tag=MANAGED, buildargs={"PYTHON_VERSION": version}, rm=True
    )
    metadata, body = invoke(project, project / "events" / "get.json")
    remove_rapid_image(engine, MANAGED)
    assert metadata["statusCode"] == 200
    assert [line.split()[0] for line in body.splitlines()] == HELLO


# For each example: an event, and the media type and a part of the response to it.
OF_EXAMPLES = {
    "sse": ("resume", "text/event-stream", "event: "),
    "bedrock": ("chat", "text/event-stream", "stand-in"),
    "agent": ("chat", "text/event-stream", "stand-in"),
    "mcp": ("tools-call", "text/event-stream", '"structuredContent"'),
    "fastapi": ("get", "text/plain", " of 10"),
}


def test_example_events(bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path) -> None:
    """One test, because each would create the same images."""
    with ExitStack() as stack:
        for example, (event, media_type, words) in OF_EXAMPLES.items():
            # Compiled packages have to run in the stand-in. SAM provides credentials, with which it would call Bedrock.
            project = for_own_python(bake(architecture=OWN_ARCHITECTURE, example=example))
            set_variables(project, STREAM_INTERVAL="0", LOCAL_STANDIN="1")
            run("sam", "build", cwd=project)
            if example == next(iter(OF_EXAMPLES)):
                provide_image(MANAGED, python_home)
                stack.callback(remove_rapid_image, engine, MANAGED)
            metadata, body = invoke(project, project / "events" / f"{event}.json")
            assert metadata["statusCode"] == 200, example
            assert metadata["headers"]["content-type"].startswith(media_type), example
            assert words in body, example


def test_image_events(bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path) -> None:
    project = bake(runtime="container", architecture=OWN_ARCHITECTURE, front_door="rest-api")
    (project / "src" / "app.py").chmod(0o600)
    (project / "src" / "__pycache__").mkdir()
    (project / "src" / "__pycache__" / "stale.cpython-39.pyc").touch()
    set_variables(project, STREAM_INTERVAL="0")
    provide_image("public.ecr.aws/lambda/python:3.13", python_home)
    run("make", "build", cwd=project)
    show = "ls -l /var/task /var/task/__pycache__ /tmp"
    listed = engine.containers.run("streamfunction:latest", entrypoint=["sh", "-c", show], remove=True).decode()
    assert re.search(r"^-rw-r--r-- .* app\.py$", listed, re.MULTILINE)
    assert re.search(r"^-rwxr-xr-x .* bootstrap$", listed, re.MULTILINE)
    assert re.search(r"app\.cpython-3\d+\.pyc$", listed, re.MULTILINE)
    assert "stale" not in listed
    assert "requirements.txt" not in listed.partition("/var/task:")[2].partition("\n\n")[0]
    assert_all_are_the_hello_stream(invoke_each_event(project, engine, "streamfunction:latest"))
    engine.images.remove("streamfunction:latest", force=True)


def test_image_checks_tokens(
    bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path, tmp_path: Path
) -> None:
    """The Dockerfile installs what checking takes; without a valid token, the handler is not called."""
    project = bake(runtime="container", architecture=OWN_ARCHITECTURE, url_auth="jwt", jwt_audience=AUDIENCE)
    packages = project / "runtime" / "front_door" / "packages.txt"
    download = ("python", "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest", tmp_path / "wheels")
    run(*download, "--requirement", packages, cwd=tmp_path)
    provide_image("public.ecr.aws/lambda/python:3.13", python_home, tmp_path / "wheels")
    run("make", "build", cwd=project)
    function = Template(project / "template.yaml").function("StreamFunction")
    port, api_port = free_ports(2)
    with local() as issuer, ExitStack() as stack:
        container = engine.containers.run(
            "streamfunction:latest",
            [function.handler],
            entrypoint=[
                *("/emulator", "--runtime-interface-emulator-address", f"127.0.0.1:{port}"),
                *("--runtime-api-address", f"127.0.0.1:{api_port}", "/var/task/bootstrap"),
            ],
            environment={**function.environment, "JWT_ISSUER": issuer.url, "STREAM_INTERVAL": "0"},
            volumes={str(EMULATOR): {"bind": "/emulator", "mode": "ro"}},
            network_mode="host",
            detach=True,
        )
        stack.callback(engine.images.remove, "streamfunction:latest", force=True)
        stack.callback(container.remove, force=True)
        emulator = Emulator(lambda: container.reload() or container.status != "running", port)
        event = json.loads((project / "events" / "get.json").read_text(encoding="utf-8"))
        for header, reason in (({}, ""), ({"authorization": f"Bearer {issuer.make(aud='another')}"}, "invalid_token")):
            status, body = emulator.invoke({**event, "headers": {**event["headers"], **header}})
            metadata, _, text = body.partition(bytes(8))
            assert status == 200, "the function has not failed"
            assert json.loads(metadata)["statusCode"] == 401
            assert reason in json.loads(metadata)["headers"]["www-authenticate"]
            assert text.decode().endswith(f"Issuer: {issuer.url}\n"), "nothing of the handler"
        _, body = emulator.invoke({**event, "headers": {**event["headers"], "authorization": f"Bearer {issuer.token}"}})
        assert_is_the_hello_stream(body)


def test_bundled_interpreter_events(bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path) -> None:
    project = for_own_python(bake(runtime="provided.al2023", architecture=OWN_ARCHITECTURE, front_door="rest-api"))
    set_variables(project, STREAM_INTERVAL="0")
    run("sam", "build", cwd=project, PYTHON_HOME=str(python_home), UV_OFFLINE="1")
    provide_image(PROVIDED)
    assert_all_are_the_hello_stream(invoke_each_event(project, engine, PROVIDED))
