"""The commands of a project's README, unchanged and in its order, with AWS on localhost.

Stand-ins: MiniStack for AWS (its URLs do not stream, so `$URL` is that of `make dev`), `gh`, and a bare repository for
GitHub's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.documents import document, readme, scripts
from tests.helpers.support import OWN_ARCHITECTURE, Answers, Bake, for_own_python, free_ports, run, user_environment
from tests.pipeline.conftest import Cloud, stand_in_commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOCAL = "http://127.0.0.1:3000"
ISSUER = "http://127.0.0.1:3100"
ALONE = {"deploy_pipeline": "none"}
# Together, these READMEs have every command that a README can have.
VARIANTS: dict[str, Answers] = {
    "hello": {"observability": "full"},
    "sse": {**ALONE, "example": "sse"},
    "bedrock": {**ALONE, "example": "bedrock"},
    "mcp": {**ALONE, "example": "mcp"},
    "public": {**ALONE, "url_auth": "NONE"},
    "interpreter": {**ALONE, "runtime": "provided.al2023", "architecture": OWN_ARCHITECTURE},
    "api": {**ALONE, "front_door": "rest-api"},
    "cloudfront": {**ALONE, "front_door": "cloudfront"},
    "tokens": {**ALONE, "url_auth": "jwt"},
}


# Commands that other tests run.
ELSEWHERE = {
    "sam local invoke\n": "test_sam_local.py",
    "sam local invoke StreamFunction --event events/get.json\n": "test_sam_local.py",
    "uv tool install aws-sam-cli\n": "test_documents.py",
}


def new_scripts(variant: str) -> list[str]:
    """Return the scripts of this README that neither an earlier variant nor another test runs."""
    before = list(VARIANTS)[: list(VARIANTS).index(variant)]
    known = {script for name in before for script in scripts(readme(VARIANTS[name]))} | ELSEWHERE.keys()
    return [script for script in scripts(readme(VARIANTS[variant])) if script not in known]


@dataclass
class Shell:
    """A user's shell in a project, while another one runs `make dev`."""

    project: Path
    cloud: Cloud
    environment: dict[str, Any]
    url: str
    issuer: str = ""

    def __call__(self, script: str, answers: str = "") -> str:
        """Run commands, and return their output. One that fails ends the test."""
        script = (
            script.replace(LOCAL, self.url)
            .replace(ISSUER, self.issuer)
            .replace("URL=…", f"URL={self.url}/")
            .replace("CONCURRENCY=50 DURATION=30", "CONCURRENCY=5 DURATION=1")
            .replace("/opt/python", self.environment["PYTHON_HOME"])
        )
        done = run("bash", "-ec", script, cwd=self.project, answers=answers, **self.environment)
        return done.stdout + done.stderr

    def follow(self, command: str, until: str) -> None:
        """Run a command until it prints a text, then end it with Ctrl-C."""
        with self.start(command) as process:
            assert any(until in line for line in process.stdout or ()), f"{command} ended without {until}"
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)

    def start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-ec", f"exec {command}"],
            cwd=self.project,
            env=user_environment(**self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def output(self, name: str) -> str:
        """Return an output of the deployed stack."""
        [stack] = self.cloud.client("cloudformation").describe_stacks(StackName="lambda-stream")["Stacks"]
        return str(next(output["OutputValue"] for output in stack["Outputs"] if output["OutputKey"] == name))


@pytest.fixture
def shell(bake: Bake, cloud: Cloud, python_home: Path, tmp_path: Path) -> Iterator[Callable[[str], Shell]]:
    with ExitStack() as stack:

        def start(variant: str) -> Shell:
            project = for_own_python(shutil.copytree(bake(**VARIANTS[variant]), tmp_path / "lambda-stream"))
            commands = stand_in_commands(tmp_path, cloud)
            hub = tmp_path / "hub" / "owner" / "name.git"
            run("git", "init", "--quiet", "--bare", hub, cwd=tmp_path)
            (tmp_path / "github.json").write_text('{"repository": "owner/name"}')
            (tmp_path / "gitconfig").write_text(
                f"[user]\nname = A User\nemail = user@example.com\n[init]\ndefaultBranch = main\n"
                f'[url "file://{tmp_path}/hub/"]\npushInsteadOf = git@github.com:\n'
            )
            port, another = free_ports(2)
            url = f"http://127.0.0.1:{port}"
            environment = {
                **cloud.environment,
                "AWS_SESSION_TOKEN": "testing",
                "CONCURRENCY": "5",
                "DURATION": "1",
                "ENVIRONMENTS": "staging",
                "GH_STATE": str(tmp_path / "github.json"),
                "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
                "LOCAL_STANDIN": "1",
                "PORT": str(port),
                "PATH": f"{commands}{os.pathsep}{user_environment()['PATH']}",
                "PYTHON_HOME": str(python_home),
                "STREAM_INTERVAL": "0.05",
                "URL": f"{url}/",
            }
            found = Shell(project, cloud, environment, url)
            dev = stack.enter_context(found.start("make dev ARGS=--no-inspector"))
            stack.callback(os.killpg, dev.pid, signal.SIGINT)
            for line in dev.stdout or ():
                if issuer := re.search(r"Tokens come from (\S+) ", line):
                    found.issuer = issuer[1]
                if url in line and not issuer:
                    break
            else:
                pytest.fail("make dev ended")
            environment["PORT"] = str(another)
            return found

        yield start


def log(shell: Shell, message: str) -> None:
    """Write a line to the function's log, as Lambda would."""
    logs: Any = shell.cloud.client("logs")
    where = {"logGroupName": "/aws/lambda/lambda-stream", "logStreamName": "2026/11/26/[1]0"}
    logs.create_log_stream(**where)
    logs.put_log_events(**where, logEvents=[{"timestamp": 1_800_000_000_000, "message": message}])


# A pattern in the responses of each variant.
EXPECTED = {
    "hello": "10 of 10|streamed",
    "sse": "event: ",
    "bedrock": "stand-in|streamed",
    "mcp": "structuredContent",
    "public": "10 of 10",
    "interpreter": "",
    "api": "10 of 10",
    "cloudfront": "10 of 10",
    "tokens": "10 of 10",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_readme_commands_work(variant: str, shell: Callable[[str], Shell]) -> None:
    here = shell(variant)
    for script in new_scripts(variant):
        match script.split()[:3]:
            case ["make", "dev"]:
                pass  # running already
            case ["make", "proxy", _]:
                here.follow("make proxy URL=https://abc.lambda-url.us-east-1.on.aws/", "sends signed requests to")
            case ["make", "dev", "ARGS=--limits" | "ARGS=--sampled"]:
                here.follow(script, "http://127.0.0.1:")
            case ["make", "dev", "ARGS=--debug"]:
                here.follow(script, "Attach a debugger to ")
            case ["make", "new", _]:
                if not (here.project / "admin").exists():  # more than one document has the command
                    here(script)
            case ["make", "load", *_]:
                assert "errors: none" in here(script)
            case ["make", "check", _]:
                assert "Successfully created/updated stack - lambda-stream" in here(script, "y\n")
            case ["git", "init", _]:
                assert "The variables are set in owner/name." in here(script)
                # `make pipeline` ran for staging alone here, but the README also deletes a preview.
                here("gh variable set STACK_NAME --env preview --body Preview-0123456789-lambda-stream-pr")
            case ["sam", "delete", _]:
                assert "does not exist" in here(script, "y\ny\n")
            case ["sam", "logs", _]:
                log(here, "a line of the log")
                here.follow(script, "a line of the log")
            case ["aws", "sns", _]:
                here.environment["STREAM_ALARMS"] = here.output("StreamAlarms")
                assert "SubscriptionArn" in here(script)
            case (
                ["TOKEN=$(curl", *_]
                | ["curl", *_]
                | ["make", "invoke" | "probe", _]
                | ['body=\'{"one":' | 'body=\'{"messages":', *_]
            ):
                printed = here(script)
                assert re.search(EXPECTED[variant], printed), printed
            case _:
                here(script)


def test_document_sets_up_the_pipeline(shell: Callable[[str], Shell]) -> None:
    here = shell("hello")
    here("git init --quiet && git remote add origin git@github.com:owner/name.git")
    for script in scripts(document("docs/pipeline.md")):
        for command in filter(None, script.splitlines()):
            command = command.replace("OWNER_ID=…", "OWNER_ID=4242").replace("REPOSITORY_ID=…", "REPOSITORY_ID=1001")
            assert "The variables are set in owner/name." in here(command), command


def test_own_interpreter_is_deployed(shell: Callable[[str], Shell]) -> None:
    """MiniStack runs the `bootstrap`, so the response is our runtime's, though MiniStack does not stream it."""
    here = shell("interpreter")
    here("make deploy", "y\n")
    assert "lambda-stream" in here.cloud.stacks()
    shown = here("sam remote invoke StreamFunction --event-file events/get.json")
    assert re.findall(r"(\d+) of 10, ", shown) == [str(number) for number in range(1, 11)]
    assert shown.count("statusCode") == 1
    assert "Deleted successfully" in here("sam delete", "y\ny\ny\n")
    assert "lambda-stream" not in here.cloud.stacks()
