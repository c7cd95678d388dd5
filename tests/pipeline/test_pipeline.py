"""The whole pipeline: each shell step of each workflow, run against AWS on localhost.

Stand-ins: GitHub's machines, actions and `gh` (runner.py, stand_ins/), AWS (MiniStack), and for the smoke test a local
URL of the deployed build, since MiniStack's URLs do not stream. Real: the shell steps, `make`, uv, SAM, AWS's command
line, the probe and the function.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.several import add_events
from tests.helpers.support import OWN_ARCHITECTURE, run
from tests.pipeline.conftest import Cloud, Project, SetUp
from tests.pipeline.policies import allows
from tests.pipeline.runner import Job, WorkflowError, unpacked

# Each step starts several commands, which are slow on a loaded machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PULL_REQUEST = {
    "number": 7,
    "user": {"login": "octocat"},
    "head": {"sha": "c0ffee", "repo": {"full_name": "octo-org/lambda-stream"}},
}
# One test runs the project's own checks, and the others skip them.
UNCHECKED: dict[str, dict[str, str]] = {"ci/check": {}}


# The smoke test runs the build on this machine, where `cryptography` has to be one of its own.
SIGN_IN = {"url_auth": "jwt", "architecture": OWN_ARCHITECTURE}
DEPLOYING = {
    *("cloudformation:CreateChangeSet", "cloudformation:DescribeChangeSet", "cloudformation:DescribeStacks"),
    *("cloudformation:ExecuteChangeSet", "iam:PassRole", "s3:GetObject", "s3:PutObject"),
}


def requests(calls: Path) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Yield role, action, resource and context of each permission that the recorded calls needed."""
    stacks: dict[str, str] = {}
    for line in calls.read_text(encoding="utf-8").splitlines():
        call = json.loads(line)
        role, operation, given = call["role"], call["operation"], call["parameters"]
        account = role.split(":")[4]
        assert role, f"a call without a role: {call}"
        action = f"{call['service']}:{operation}"
        match call["service"], operation:
            case "s3", "HeadObject" | "GetObject":
                yield role, "s3:GetObject", f"arn:aws:s3:::{given['Bucket']}/{given['Key']}", {}
            case "s3", "PutObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload":
                yield role, "s3:PutObject", f"arn:aws:s3:::{given['Bucket']}/{given['Key']}", {}
            case "cloudformation", "DescribeStackDriftDetectionStatus":
                yield role, action, "*", {}
            case "cloudformation", _:
                named = given.get("ChangeSetName", "")
                stack = stacks[named] if named in stacks else given["StackName"]
                if stack.startswith("arn:"):
                    stack = stack.split("/")[1]
                resource = f"arn:aws:cloudformation:us-east-1:{account}:stack/{stack}/1"
                if operation == "CreateChangeSet":
                    stacks[call["id"]] = stack
                    cloudformation = given["RoleARN"]
                    yield role, "iam:PassRole", cloudformation, {"iam:PassedToService": "cloudformation.amazonaws.com"}
                    transform = "arn:aws:cloudformation:us-east-1:aws:transform/Serverless-2016-10-31"
                    yield role, action, transform, {}
                    yield role, action, resource, {"cloudformation:RoleArn": cloudformation}
                else:
                    yield role, action, resource, {}
                if operation == "DetectStackDrift":
                    yield role, "cloudformation:DetectStackResourceDrift", resource, {}
            case _:
                raise AssertionError(f"unknown action {action}")


def assert_allowed(cloud: Cloud) -> set[str]:
    """Assert that the roles in AWS allow each recorded call, and return the actions."""
    made = list(requests(cloud.calls))
    assert made
    policies = {role: cloud.policies(role) for role in {role for role, *_ in made}}
    refused = [(role, *asked) for role, *asked in made if not allows(policies[role], *asked)]  # type: ignore[arg-type]
    assert refused == []
    return {action for _, action, *_ in made}


def deployed(project: Project, stack: str) -> dict[str, Any]:
    """Return the function's configuration."""
    found = project.cloud.client("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
    name = next(item["PhysicalResourceId"] for item in found if item["LogicalResourceId"] == "StreamFunction")
    configuration: dict[str, Any] = project.cloud.client("lambda").get_function_configuration(FunctionName=name)
    return configuration


def ran(jobs: dict[str, Job]) -> dict[str, str]:
    """Return the results of the jobs that ran, except the lookup of the pull request."""
    return {key: job.result for key, job in jobs.items() if job.result != "skipped" and not key.endswith("/state")}


def log(jobs: dict[str, Job]) -> str:
    """Return the output of all jobs."""
    return "\n".join(job.log for job in jobs.values())


def test_push_deploys_one_build(set_up: SetUp) -> None:
    """The same bytes are checked, built once, and deployed to staging and then to production."""
    project = set_up("staging production")
    runner, cloud = project.runner, project.cloud

    jobs = runner.run("deploy.yml", "push")
    expected = ("ci", "ci/check", "ci/build", "staging", "staging/deploy", "production", "production/deploy")
    assert ran(jobs) == dict.fromkeys(expected, "success"), log(jobs)
    assert list(jobs).index("staging/deploy") < list(jobs).index("production/deploy")
    assert "passed" in jobs["ci/check"].log
    assert jobs["staging/deploy"].steps == [
        "Verify and unpack the build",
        "Create and show the change set",
        "Execute the change set",
        "Read the URLs from the stack's outputs",
        "Check that each URL streams, or refuses a request as it should",
    ]
    for environment in ("staging", "production"):
        job = jobs[f"{environment}/deploy"]
        assert f"### {project.stack(environment)}\n" in job.summary
        assert "| Add | `StreamFunction` | AWS::Lambda::Function |  |\n" in job.summary
        assert " streams. The first byte arrived after " in job.summary
        assert float(job.outputs["first-byte"]) < 60
        assert cloud.stacks()[project.stack(environment)] == "CREATE_COMPLETE"
    # Both run the same bytes, and `bootstrap` is still executable in what was packed.
    hashes = {deployed(project, project.stack(name))["CodeSha256"] for name in ("staging", "production")}
    assert len(hashes) == 1
    build = unpacked(runner.folder / "artifacts" / "build" / "build.tar.gz", runner.folder / "unpacked")
    assert (build / ".aws-sam" / "build" / "StreamFunction" / "bootstrap").stat().st_mode & 0o777 == 0o755
    assert (runner.folder / "artifacts" / "build" / "build.tar.gz").stat().st_mode & 0o777 == 0o644

    assert assert_allowed(cloud) == DEPLOYING


def test_update_and_drift(set_up: SetUp) -> None:
    """A push without changes, a push with one, and drift detection before and after a change by hand.

    The function checks tokens itself.
    """
    project = set_up("staging", **SIGN_IN)
    runner, cloud, stack = project.runner, project.cloud, project.stack("staging")
    runner.known = UNCHECKED
    job = runner.run("deploy.yml", "push")["staging/deploy"]
    assert job.result == "success", job.log
    assert " refuses a request without a token. " in job.summary

    runner.known = {**UNCHECKED, **runner.keep_build()}
    job = runner.run("deploy.yml", "push")["staging/deploy"]
    assert job.result == "success", job.log
    assert "No changes." in job.summary
    runner.known, runner.artifact = UNCHECKED, None
    assert "Execute the change set" not in job.steps

    template = project.folder / "template.yaml"
    template.write_text(template.read_text(encoding="utf-8").replace("MemorySize: 512", "MemorySize: 640"))
    project.commit()
    jobs = runner.run("deploy.yml", "push")
    assert jobs["production"].result == "skipped", "production is not set up"
    assert "| Modify | `StreamFunction` | AWS::Lambda::Function | False |\n" in jobs["staging/deploy"].summary
    assert cloud.stacks()[stack] == "UPDATE_COMPLETE"
    assert deployed(project, stack)["MemorySize"] == 640

    jobs = runner.run("deploy.yml", "schedule")
    assert ran(jobs) == {"drift staging": "success"}, log(jobs)
    assert f"### {stack}: IN_SYNC" in jobs["drift staging"].summary
    name = deployed(project, stack)["FunctionName"]
    cloud.client("lambda").update_function_configuration(FunctionName=name, Timeout=5)
    job = runner.run("deploy.yml", "schedule")["drift staging"]
    assert job.result == "failure"
    assert f"### {stack}: DRIFTED" in job.summary
    assert '"resource": "StreamFunction"' in job.summary
    assert assert_allowed(cloud) == DEPLOYING | {
        "cloudformation:GetTemplateSummary",  # only for a stack that exists
        *("cloudformation:DetectStackDrift", "cloudformation:DetectStackResourceDrift"),
        *("cloudformation:DescribeStackDriftDetectionStatus", "cloudformation:DescribeStackResourceDrifts"),
    }


def pull_request(project: Project, action: str, sha: str = "c0ffee", **different: Any) -> dict[str, Job]:
    """Run the workflow for an event of the pull request 7, and return its jobs."""
    head = {**PULL_REQUEST["head"], "sha": sha}  # type: ignore[dict-item]
    event = {**PULL_REQUEST, "head": head, **different}
    return project.runner.run(
        "deploy.yml", "pull_request", "refs/pull/7/merge", action=action, number=7, pull_request=event
    )


def comments(project: Project) -> list[str]:
    """Return the comments on the pull request."""
    return [comment["body"] for comment in project.state()["comments"]]


def test_preview_follows_pull_request(set_up: SetUp) -> None:
    """A pull request that is opened, updated and closed. Forks and Dependabot get no preview."""
    project = set_up("preview")
    runner, cloud, stack = project.runner, project.cloud, f"{project.stack('preview')}-7"
    fork = {"head": {"sha": "bad", "repo": {"full_name": "mallory/lambda-stream"}}}
    for foreign in (fork, {"user": {"login": "dependabot[bot]"}}):
        runner.known = {**UNCHECKED, "ci": {"checksum": ""}}
        assert ran(pull_request(project, "opened", **foreign)) == {"ci": "success"}
        assert ran(pull_request(project, "closed", **foreign)) == {}
    runner.known = UNCHECKED

    jobs = pull_request(project, "opened")
    expected = ("ci", "ci/check", "ci/build", "preview", "preview/deploy", "comment")
    assert ran(jobs) == dict.fromkeys(expected, "success"), log(jobs)
    assert cloud.stacks()[stack] == "CREATE_COMPLETE"
    url, first = jobs["preview/deploy"].outputs["url"], jobs["preview/deploy"].outputs["first-byte"]
    text = f"<!-- preview -->\nPreview of c0ffee: {url}\n\nThe first byte arrived after {first} s."
    assert comments(project) == [text]

    runner.known = {**UNCHECKED, **runner.keep_build()}
    pull_request(project, "synchronize", sha="decaf")
    assert len(comments(project)) == 1
    assert "Preview of decaf: " in comments(project)[0]

    project.set_pull_request("closed")
    for _ in range(2):
        jobs = pull_request(project, "closed")
        assert ran(jobs) == {"preview": "success", "preview/delete": "success"}, log(jobs)
        assert stack not in cloud.stacks()
    assert "cloudformation:DeleteStack" in assert_allowed(cloud)


def test_closing_during_ci_deletes(set_up: SetUp) -> None:
    """A deployment whose turn comes after the pull request was closed deletes instead, whatever the order was."""
    project = set_up("preview", **SIGN_IN)
    project.runner.known = UNCHECKED
    job = pull_request(project, "opened")["preview/deploy"]
    assert job.result == "success", job.log
    stack = f"{project.stack('preview')}-7"
    assert stack in project.cloud.stacks()

    project.runner.known = {**UNCHECKED, **project.runner.keep_build()}
    project.set_pull_request("closed")
    jobs = pull_request(project, "synchronize")
    assert jobs["preview/deploy"].result == "skipped"
    assert jobs["preview/delete"].result == "success", log(jobs)
    assert jobs["comment"].result == "skipped"
    assert stack not in project.cloud.stacks()


def test_foreign_comment_is_kept(set_up: SetUp) -> None:
    """Anyone can write a comment that looks like ours; only one by our own account is updated."""
    project = set_up("")
    outputs = {"url": "https://example.com/", "first-byte": "0.100"}
    project.runner.known = {"ci": {"checksum": ""}, "preview": outputs}
    project.runner.variables["ENVIRONMENTS"] = "preview"
    others = [
        {"id": number, "user": user, "body": "<!-- preview --> mine"}
        for number, user in enumerate(
            (
                {"login": "mallory", "type": "User"},
                {"login": "github-actions[bot]", "type": "User"},
                {"login": "mallory[bot]", "type": "Bot"},
            ),
            start=71,
        )
    ]
    project.github.write_text(json.dumps({"comments": others}), encoding="utf-8")
    for sha in ("c0ffee", "decaf"):
        assert pull_request(project, "synchronize", sha=sha)["comment"].result == "success"
    assert project.state()["comments"][:3] == others
    assert [text.split(":")[0].split("\n")[-1] for text in comments(project)[3:]] == ["Preview of decaf"]


def test_buffered_is_not_promoted(set_up: SetUp) -> None:
    """The smoke test of staging fails, so production stays as it is. A change set that fails is explained."""
    project = set_up("staging production")
    project.runner.known = UNCHECKED
    app = project.folder / "src" / "app.py"
    app.write_text(
        'def handler(event, context):\n    return {"statusCode": 200, "body": "buffered"}\n', encoding="utf-8"
    )
    project.commit()
    jobs = project.runner.run("deploy.yml", "push")
    assert jobs["staging/deploy"].result == "failure"
    assert "did not stream: " in jobs["staging/deploy"].log
    assert jobs["production"].result == "skipped"

    template = project.folder / "template.yaml"
    broken = "  Broken:\n    Type: AWS::Logs::LogStream\n    Properties:\n      LogGroupName: /does/not/exist\n\n"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("\nResources:\n", f"\nResources:\n{broken}"), encoding="utf-8")
    project.commit()
    jobs = project.runner.run("deploy.yml", "push")
    assert jobs["staging/deploy"].result == "failure"
    assert jobs["staging/deploy"].steps[-2:] == ["Execute the change set", "Report why the change set failed"]
    assert "| `Broken` | " in jobs["staging/deploy"].summary
    assert jobs["production"].result == "skipped"

    assert project.stack("production") not in project.cloud.stacks()
    assert "cloudformation:DescribeStackEvents" in assert_allowed(project.cloud)


def test_foreign_build_is_refused(set_up: SetUp, tmp_path: Path) -> None:
    """The checksum travels outside the archive. AWS's trust policy refuses a run by hand on another branch."""
    project = set_up("staging")
    project.runner.artifact = tmp_path / "artifact"
    project.runner.artifact.mkdir()
    build = project.runner.artifact / "build.tar.gz"
    with tarfile.open(build, "w:gz"):
        pass
    project.runner.known = {"ci": {"checksum": f"{'0' * 64}  build.tar.gz"}}
    job = project.runner.run("deploy.yml", "push")["staging/deploy"]
    assert job.result == "failure"
    assert job.steps == ["Verify and unpack the build"]
    assert "build.tar.gz: FAILED" in job.log

    digest = hashlib.sha256(build.read_bytes()).hexdigest()
    project.runner.known = {"ci": {"checksum": f"{digest}  build.tar.gz"}}
    with pytest.raises(WorkflowError, match="does not trust"):
        project.runner.run("deploy.yml", "workflow_dispatch", "refs/heads/feature")


def test_missing_stack_name_is_explained(set_up: SetUp, tmp_path: Path) -> None:
    """Variables of an earlier version have no stack names: the remedy is in the log."""
    project = set_up("staging")
    for name in [name for name in project.runner.variables if name.endswith("STACK_NAME")]:
        del project.runner.variables[name]
    drift = json.loads(project.runner.variables["DRIFT"])
    project.runner.variables["DRIFT"] = json.dumps([{**entry, "stack": ""} for entry in drift])
    project.runner.artifact = tmp_path / "artifact"
    project.runner.artifact.mkdir()
    build = project.runner.artifact / "build.tar.gz"
    with tarfile.open(build, "w:gz"):
        pass
    digest = hashlib.sha256(build.read_bytes()).hexdigest()
    project.runner.known = {"ci": {"checksum": f"{digest}  build.tar.gz"}}
    for event, key in (("push", "staging/deploy"), ("schedule", "drift staging")):
        job = project.runner.run("deploy.yml", event)[key]
        assert job.result == "failure"
        assert "run make pipeline again" in job.log


def test_no_deployment_before_set_up(set_up: SetUp) -> None:
    """Without the variables of `make pipeline`, pushes and pull requests are only checked and built."""
    project = set_up("")
    project.runner.known = {"ci": {"checksum": ""}}
    assert ran(project.runner.run("deploy.yml", "push")) == {"ci": "success"}
    assert ran(pull_request(project, "opened")) == {"ci": "success"}
    assert project.runner.run("deploy.yml", "schedule")["drift"].result == "skipped"


def test_three_functions(set_up: SetUp) -> None:
    """A second function that streams, and a plain one with a queue and schedules: deployed, updated and deleted."""
    project = set_up("preview")
    run("python", "-m", "local.new", "Admin", cwd=project.folder)
    add_events(project.folder)
    settings = project.folder / "pyproject.toml"
    settings.write_text(
        settings.read_text(encoding="utf-8").replace(
            "[tool.pipeline]\n", '[tool.pipeline]\nsmoke-event-AdminUrl = "events/post.json"\n'
        ),
        encoding="utf-8",
    )
    (project.folder / "admin" / "app.py").write_text(
        "import time\n\n\ndef handler(event, context):\n"
        '    assert event["requestContext"]["http"]["method"] != "GET", "the event of another function"\n'
        '    for number in range(3):\n        yield f"{number}\\n"\n        time.sleep(0.2)\n',
        encoding="utf-8",
    )
    project.commit()
    project.runner.known = UNCHECKED
    stack = f"{project.stack('preview')}-7"
    job = pull_request(project, "opened")["preview/deploy"]
    assert job.result == "success", job.log
    for name in ("StreamFunction", "AdminFunction", "OrderEventsFunction"):
        assert f"| Add | `{name}` | AWS::Lambda::Function |  |\n" in job.summary
    assert job.summary.count(" streams. The first byte arrived after ") == 2
    template = project.folder / "template.yaml"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("MemorySize: 512", "MemorySize: 640"), encoding="utf-8")
    project.commit()
    job = pull_request(project, "synchronize")["preview/deploy"]
    assert job.result == "success", job.log
    assert job.summary.count("| Modify | ") >= 3
    project.set_pull_request("closed")
    assert pull_request(project, "closed")["preview/delete"].result == "success"
    assert stack not in project.cloud.stacks()
    assert_allowed(project.cloud)


# Shapes of the stack that other tests do not deploy.
SHAPES: list[dict[str, str]] = [
    {"front_door": "cloudfront", "example": "bedrock", **SIGN_IN},
    {"front_door": "rest-api", "url_auth": "NONE", "cors_origins": "*", "observability": "full"},
]


FRONTS = {"cloudfront": "AWS::WAFv2::WebACL", "rest-api": "AWS::ApiGateway::BasePathMapping"}
RESULTS = {
    "cloudfront": (" refuses a request without a token", " refuses a request past the front door"),
    "rest-api": (" streams",),
}
CERTIFICATE = "arn:aws:acm:us-east-1:123456789012:certificate/12345678-90ab-cdef-1234-567890abcdef"
# What each has in the variable `PARAMETERS`. MiniStack does not know AWS::WAFv2::WebACLAssociation.
DOMAIN = f"DomainName=api.example.com CertificateArn={CERTIFICATE}"
CHOSEN = {"cloudfront": f"{DOMAIN} RateLimit=1000", "rest-api": DOMAIN}


@pytest.mark.parametrize("answers", SHAPES, ids=lambda answers: ",".join(answers.values()))
def test_other_shapes_are_deployed(answers: dict[str, str], set_up: SetUp) -> None:
    """With the pipeline's change sets, roles and boundary, a domain and a rate limit."""
    project = set_up("preview", **answers)
    project.runner.variables["PARAMETERS"] = CHOSEN[answers["front_door"]]
    project.runner.known = UNCHECKED
    project.runner.environment["LOCAL_STANDIN"] = "1"
    stack = f"{project.stack('preview')}-7"
    for memory in ("512", "640"):
        template = project.folder / "template.yaml"
        template.write_text(template.read_text(encoding="utf-8").replace("MemorySize: 512", f"MemorySize: {memory}"))
        if memory != "512":
            project.commit()
        jobs = pull_request(project, "synchronize")
        job = jobs["preview/deploy"]
        assert job.result == "success", job.log
        for result in RESULTS[answers["front_door"]]:
            assert f"{result}. The first byte" in job.summary
        assert deployed(project, stack)["MemorySize"] == int(memory)
        made = project.cloud.client("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
        kinds = {resource["ResourceType"] for resource in made}
        assert FRONTS[answers["front_door"]] in kinds
    project.set_pull_request("closed")
    jobs = pull_request(project, "closed")
    assert jobs["preview/delete"].result == "success", jobs["preview/delete"].log
    assert stack not in project.cloud.stacks()
    assert_allowed(project.cloud)
