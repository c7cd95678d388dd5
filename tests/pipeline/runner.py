"""A runner for GitHub's workflows: shell steps run unchanged, actions have stand-ins.

It also checks what GitHub checks: conditions, needs, outputs, the permissions that a caller has to grant, and, with the
role's own trust policy, the token that a job presents to AWS.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.helpers.support import user_environment
from tests.pipeline.expressions import as_text, evaluate, interpolate
from tests.pipeline.policies import Policy, admits

STAND_INS = Path(__file__).parent / "stand_ins"
ISSUER = "token.actions.githubusercontent.com"
# A caller can grant no more than it has. Write access includes read access.
LEVELS = {"none": 0, "read": 1, "write": 2}
# A condition without one of these functions implies `success()`.
STATUS_FUNCTIONS = ("always()", "cancelled()", "failure()", "success()")

Permissions = Mapping[str, str]
Trust = Callable[[str], Policy]


class WorkflowError(Exception):
    """GitHub would refuse to run this."""


@dataclass
class Job:
    """The outcome of a job.

    Attributes:
        result: `success`, `failure` or `skipped`.
        outputs: Its outputs.
        steps: Names of the shell steps that ran.
        log: Their output.
        summary: The job's summary.
    """

    result: str = "skipped"
    outputs: dict[str, Any] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    log: str = ""
    summary: str = ""


class Jobs(dict[str, Job]):
    """The jobs of a run. Asking for one that did not run shows what failed before it."""

    def __missing__(self, key: str) -> Job:
        failed = "\n".join(job.log for job in self.values() if job.result == "failure")
        raise AssertionError(f"{key} did not run, only {', '.join(self)}\n{failed}")


@dataclass
class Runner:
    """A repository on GitHub and the machines that its workflows run on.

    Attributes:
        repository: A git repository with the project. Its HEAD is run.
        folder: Where workspaces and artifacts are put.
        tools: Folders of commands, which come first on PATH.
        environment: Additional variables for every step.
        variables: Variables of the repository, and as `environment/NAME` those of an environment.
        trust: Returns the trust policy of a role in AWS, given its ARN.
        before: Called before each shell step with its id and workspace. Returns variables to replace.
        known: Outputs of jobs that are not run, but count as successful.
        artifact: The build that these jobs have uploaded.
    """

    repository: Path
    folder: Path
    tools: tuple[Path, ...]
    environment: dict[str, str]
    variables: dict[str, str]
    trust: Trust
    before: Callable[[str, Path], dict[str, str]] = lambda step, workspace: {}
    known: dict[str, dict[str, str]] = field(default_factory=dict)
    artifact: Path | None = None
    name: str = "octo-org/lambda-stream"
    owner_id: str = "4242"
    repository_id: str = "1001"
    jobs: Jobs = field(default_factory=Jobs)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def keep_build(self) -> dict[str, dict[str, str]]:
        """Reuse the build of the last run in the next ones, and return what `known` needs for that."""
        self.artifact = self.folder / "kept"
        shutil.copytree(self.folder / "artifacts" / "build", self.artifact)
        return {"ci/build": self.jobs["ci/build"].outputs}

    def run(self, workflow: str, event_name: str, ref: str = "refs/heads/main", **event: Any) -> Jobs:
        """Run a workflow for an event, and return its jobs. Those of called workflows are named `caller/job`."""
        self.jobs = Jobs()
        github = {
            "event_name": event_name,
            "event": event,
            "ref": ref,
            "ref_name": ref.removeprefix("refs/heads/").removeprefix("refs/tags/"),
            "repository": self.name,
            "run_id": "77",
            "run_attempt": "1",
            "sha": self._head(),
            "token": "token",
        }
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)  # each run has its own
        if self.artifact is not None:
            shutil.copytree(self.artifact, self.folder / "artifacts" / "build")
        self._workflow(workflow, {"github": github, "vars": self._variables()}, None, "")
        return self.jobs

    def _variables(self, environment: str = "") -> dict[str, str]:
        own = {name: value for name, value in self.variables.items() if "/" not in name}
        of = {
            name.partition("/")[2]: value
            for name, value in self.variables.items()
            if name.startswith(f"{environment}/")
        }
        return own | (of if environment else {})

    def _head(self) -> str:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, cwd=self.repository, capture_output=True, check=True, text=True).stdout.strip()

    def _workflow(self, file: str, context: dict[str, Any], granted: Permissions | None, prefix: str) -> dict[str, Any]:
        """Run a workflow, and return its outputs. A called workflow has `inputs` in its context."""
        workflow = yaml.safe_load((self.repository / ".github" / "workflows" / file).read_text(encoding="utf-8"))
        _check_granted(file, workflow, granted)
        done: dict[str, Job] = {}
        for key, job in workflow["jobs"].items():
            needs = job.get("needs", [])
            needed = {name: done[name] for name in needs}
            here = {
                **context,
                "needs": {name: {"result": of.result, "outputs": of.outputs} for name, of in needed.items()},
                "status": "success" if all(of.result == "success" for of in needed.values()) else "failure",
            }
            for name, more in self._matrix(key, job, here):
                done[key] = self.jobs[prefix + name] = self._job(
                    prefix + name, job, {**here, **more}, workflow, granted
                )
        outputs = workflow[True].get("workflow_call") or {}  # YAML reads `on` as true
        jobs = {name: {"outputs": of.outputs, "result": of.result} for name, of in done.items()}
        return {
            name: interpolate(output["value"], {**context, "jobs": jobs})
            for name, output in (outputs.get("outputs") or {}).items()
        }

    @staticmethod
    def _matrix(key: str, job: dict[str, Any], context: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        matrix = job.get("strategy", {}).get("matrix")
        if matrix is None:
            return [(key, {})]
        if not evaluate(str(job.get("if", "success()")), context):
            return [(key, {"matrix": {}})]
        include = interpolate(matrix["include"], context)
        return [(f"{key} {entry['environment']}", {"matrix": entry}) for entry in include]

    def _job(
        self,
        key: str,
        job: dict[str, Any],
        context: dict[str, Any],
        workflow: dict[str, Any],
        granted: Permissions | None,
    ) -> Job:
        condition = str(job.get("if", "success()"))
        plain = not any(function in condition for function in STATUS_FUNCTIONS)
        if (plain and context["status"] != "success") or not evaluate(condition, context):
            return Job()
        if key in self.known:
            return Job("success", dict(self.known[key]))
        permissions: Permissions = job.get("permissions", workflow["permissions"])
        if "uses" in job:
            file = job["uses"].removeprefix("$/.github/workflows/")
            inner = {**context, "inputs": interpolate(job.get("with", {}), context)}
            outputs = self._workflow(file, inner, permissions, f"{key}/")
            results = [of.result for name, of in self.jobs.items() if name.startswith(f"{key}/")]
            return Job("failure" if "failure" in results else "success", outputs)
        return _Execution(self, key, job, context, workflow, permissions).run()


def outputs_in(text: str) -> dict[str, str]:
    """Return the outputs in a step's file.

    https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#multiline-strings
    """
    found = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, is_long, end = line.partition("<<")
        if is_long and "=" not in name:
            found[name] = "\n".join(iter(lambda: next(lines), end))
        else:
            name, _, found_value = line.partition("=")
            found[name] = found_value
    return found


def _check_granted(file: str, workflow: dict[str, Any], granted: Permissions | None) -> None:
    # GitHub checks this before it starts anything, also for jobs that would be skipped.
    for key, job in workflow["jobs"].items() if granted is not None else ():
        for scope, level in job.get("permissions", workflow["permissions"]).items():
            if LEVELS[level] > LEVELS[(granted or {}).get(scope, "none")]:
                raise WorkflowError(f"{key} of {file} asks for {scope}: {level}, which its caller does not grant")


class _Execution:
    """One job, in a workspace of its own."""

    def __init__(
        self,
        runner: Runner,
        key: str,
        job: dict[str, Any],
        context: dict[str, Any],
        workflow: dict[str, Any],
        permissions: Permissions,
    ) -> None:
        self._runner, self._key, self._job, self._permissions = runner, key, job, permissions
        self._folder = runner.folder / f"job-{next(runner._numbers)}"
        self._workspace = self._folder / "workspace"
        self._workspace.mkdir(parents=True)
        self._environment = interpolate(job.get("environment", ""), {**context, "steps": {}})
        if isinstance(self._environment, dict):
            self._environment = self._environment["name"]
        self._context = {**context, "vars": runner._variables(self._environment), "steps": {}}
        self._shell = job.get("defaults", workflow.get("defaults", {})).get("run", {}).get("shell", "")
        tools = os.pathsep.join(map(str, runner.tools))
        self._variables = {
            **user_environment(**runner.environment),
            **interpolate(workflow.get("env", {}), self._context),
            **interpolate(job.get("env", {}), self._context),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_REPOSITORY": runner.name,
            "PATH": f"{tools}{os.pathsep}{user_environment()['PATH']}",
            "PYTHONPATH": str(STAND_INS),
        }
        self._done = Job("success")

    def run(self) -> Job:
        if not int(self._job["timeout-minutes"]) <= 360:
            raise WorkflowError("GitHub cancels jobs after six hours")
        for number, step in enumerate(self._job["steps"]):
            self._context["status"] = self._done.result
            condition = str(step.get("if", "success()"))
            plain = not any(function in condition for function in STATUS_FUNCTIONS)
            if (plain and self._done.result != "success") or not evaluate(condition, self._context):
                continue
            if "uses" in step:
                self._action(step)
            elif not self._script(step, number):
                self._done.result = "failure"
        self._done.outputs = interpolate(self._job.get("outputs", {}), self._context)
        return self._done

    def _script(self, step: dict[str, Any], number: int) -> bool:
        assert "${{" not in step["run"], "an expression in a script"
        files = {
            name: self._folder / f"{name}-{number}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV")
        }
        for file in files.values():
            file.touch()
        script = self._folder / f"step-{number}.sh"
        script.write_text(step["run"], encoding="utf-8")
        given = {name: as_text(value) for name, value in interpolate(step.get("env", {}), self._context).items()}
        changed = self._runner.before(step.get("id", ""), self._workspace)
        assert not given or changed.keys() <= given.keys(), "the step has no such variable"
        # https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#defaultsrunshell
        bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail"] if self._shell == "bash" else ["bash", "-e"]
        done = subprocess.run(
            [*bash, str(script)],
            cwd=self._workspace,
            env={**self._variables, **given, **changed, **{name: str(file) for name, file in files.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
            text=True,
            encoding="utf-8",
            timeout=280,
        )
        self._done.steps.append(step.get("name", step["run"]))
        self._done.log += f"--- {self._key}: {step.get('name', '')} ({done.returncode})\n{done.stdout}"
        self._done.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        outputs = outputs_in(files["GITHUB_OUTPUT"].read_text(encoding="utf-8"))
        self._context["steps"][step.get("id", f"step {number}")] = {"outputs": outputs}
        return done.returncode == 0

    def _action(self, step: dict[str, Any]) -> None:
        action = step["uses"].partition("@")[0]
        given = interpolate(step.get("with", {}), self._context)
        match action:
            case "actions/checkout":
                assert given["persist-credentials"] is False
                self._need("contents", "read")
                shutil.rmtree(self._workspace)
                command = ["git", "clone", "--quiet", str(self._runner.repository), str(self._workspace)]
                subprocess.run(command, check=True)
            case "astral-sh/setup-uv" | "aws-actions/setup-sam" | "actions/setup-python":
                pass  # on PATH already
            case "actions/upload-artifact":
                self._upload(given["name"], given["path"].split())
            case "actions/download-artifact":
                shutil.copytree(self._store(given["name"]), self._workspace, dirs_exist_ok=True)
            case "aws-actions/configure-aws-credentials":
                self._become(given["role-to-assume"])
                assert int(given["role-duration-seconds"]) >= 60 * int(self._job["timeout-minutes"])
                self._variables |= {"AWS_REGION": given["aws-region"], "AWS_DEFAULT_REGION": given["aws-region"]}
            case _:
                raise WorkflowError(f"{action} has no stand-in")

    def _need(self, scope: str, level: str) -> None:
        if LEVELS[self._permissions.get(scope, "none")] < LEVELS[level]:
            raise WorkflowError(f"{self._key} may not {level} {scope}")

    def _store(self, name: str) -> Path:
        return self._runner.folder / "artifacts" / name

    def _upload(self, name: str, paths: list[str]) -> None:
        # Like the real action, without hidden files and modes.
        store = self._store(name)
        store.mkdir(parents=True)
        for path in paths:
            assert not any(part.startswith(".") for part in Path(path).parts)
            shutil.copyfile(self._workspace / path, store / path)
            (store / path).chmod(0o644)

    def _become(self, role: str) -> None:
        self._need("id-token", "write")
        assert role, "no role: a variable is missing"
        claims = self._claims()
        provider = f"arn:aws:iam::{role.split(':')[4]}:oidc-provider/{ISSUER}"
        context = {f"{ISSUER}:{name}": value for name, value in claims.items()}
        if not admits(self._runner.trust(role), "sts:AssumeRoleWithWebIdentity", {"Federated": provider}, context):
            raise WorkflowError(f"{role} does not trust {claims}")
        self._variables |= {
            "AWS_ACCESS_KEY_ID": role.split(":")[4],  # MiniStack uses it as the account id
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_SESSION_TOKEN": "testing",
            "STAND_IN_ROLE": role,
        }

    def _claims(self) -> dict[str, str]:
        github, runner = self._context["github"], self._runner
        owner, _, name = runner.name.partition("/")
        subject = f"repo:{owner}@{runner.owner_id}/{name}@{runner.repository_id}"
        if self._environment:
            subject += f":environment:{self._environment}"
        elif github["event_name"] == "pull_request":
            subject += ":pull_request"
        else:
            subject += f":ref:{github['ref']}"
        return {
            "aud": "sts.amazonaws.com",
            "sub": subject,
            "ref": github["ref"],
            "repository_id": runner.repository_id,
        }


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack a build's archive into a new folder, and return the folder."""
    folder.mkdir()
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", folder], check=True)
    return folder
