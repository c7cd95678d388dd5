"""The pipeline as a whole: each shell step of each workflow, run against an AWS on localhost.

Stand-ins: GitHub's machines, actions and `gh` (runner.py, stand_ins/), AWS (MiniStack), and for the smoke test a URL
on localhost in front of the very build that was deployed, since MiniStack's URLs do not stream. Real: the shell steps,
`make`, uv, SAM, AWS's command line, the probe, the function.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.conftest import Cloud, Project, SetUp
from tests.pipeline.policies import allows
from tests.pipeline.runner import Job, WorkflowError, unpacked

# Each step starts a command or five: on a machine that has much else to do they take their time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PULL_REQUEST = {
    "number": 7,
    "user": {"login": "octocat"},
    "head": {"sha": "c0ffee", "repo": {"full_name": "octo-org/lambda-stream"}},
}
# Where another test has shown that a project's own check passes, it is left out.
UNCHECKED: dict[str, dict[str, str]] = {"ci/check": {}}


DEPLOYING = {
    *("cloudformation:CreateChangeSet", "cloudformation:DescribeChangeSet", "cloudformation:DescribeStacks"),
    *("cloudformation:ExecuteChangeSet", "iam:PassRole", "s3:GetObject", "s3:PutObject"),
}


def requests(calls: Path) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Role, action, resource and context of everything that IAM was asked for by the calls."""
    stacks: dict[str, str] = {}
    for line in calls.read_text(encoding="utf-8").splitlines():
        call = json.loads(line)
        role, operation, given = call["role"], call["operation"], call["parameters"]
        account = role.split(":")[4]
        assert role, f"without a role: {call}"
        action = f"{call['service']}:{operation}"
        match call["service"], operation:
            case "s3", "HeadObject" | "GetObject":
                yield role, "s3:GetObject", f"arn:aws:s3:::{given['Bucket']}/{given['Key']}", {}
            case "s3", "PutObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload":
                yield role, "s3:PutObject", f"arn:aws:s3:::{given['Bucket']}/{given['Key']}", {}
            case "cloudformation", "GetTemplateSummary" | "DescribeStackDriftDetectionStatus":
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
                raise AssertionError(f"what does {action} take?")


def assert_allowed(cloud: Cloud) -> set[str]:
    """Each call that was made is one that the role in AWS may make; gives the actions."""
    made = list(requests(cloud.calls))
    assert made
    policies = {role: cloud.policies(role) for role in {role for role, *_ in made}}
    refused = [(role, *asked) for role, *asked in made if not allows(policies[role], *asked)]  # type: ignore[arg-type]
    assert refused == []
    return {action for _, action, *_ in made}


def deployed(project: Project, stack: str) -> dict[str, Any]:
    """The function's configuration."""
    found = project.cloud.client("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
    name = next(item["PhysicalResourceId"] for item in found if item["LogicalResourceId"] == "StreamFunction")
    configuration: dict[str, Any] = project.cloud.client("lambda").get_function_configuration(FunctionName=name)
    return configuration


def ran(jobs: dict[str, Job]) -> dict[str, str]:
    """The results of the jobs that ran."""
    return {key: job.result for key, job in jobs.items() if job.result != "skipped"}


def test_a_push_is_checked_built_once_and_deployed_to_staging_and_production(set_up: SetUp) -> None:
    """The jobs and their steps, what they show, and that the same bytes are in both environments."""
    project = set_up("staging production")
    runner, cloud = project.runner, project.cloud

    jobs = runner.run("deploy.yml", "push")
    log = "\n".join(job.log for job in jobs.values())
    assert ran(jobs) == {
        "ci": "success",
        "ci/check": "success",
        "ci/build": "success",
        "staging": "success",
        "staging/deploy": "success",
        "production": "success",
        "production/deploy": "success",
    }, log
    assert list(jobs).index("staging/deploy") < list(jobs).index("production/deploy")
    assert "passed" in jobs["ci/check"].log
    assert jobs["staging/deploy"].steps == [
        "Unpack what was built and nothing else",
        "Make a change set, and show it",
        "Execute the change set",
        "Read the stack's outputs",
        "Smoke test, which fails unless the response streams",
    ]
    for environment in ("staging", "production"):
        job = jobs[f"{environment}/deploy"]
        assert f"### lambda-stream-{environment}\n" in job.summary
        assert "| Add | `StreamFunction` | AWS::Lambda::Function |  |\n" in job.summary
        assert " streams; first byte after " in job.summary
        assert float(job.outputs["first-byte"]) < 60
        assert cloud.stacks()[f"lambda-stream-{environment}"] == "CREATE_COMPLETE"
    # The same bytes are on both, and `bootstrap` can still be executed in what was packed.
    hashes = {deployed(project, f"lambda-stream-{name}")["CodeSha256"] for name in ("staging", "production")}
    assert len(hashes) == 1
    build = unpacked(runner.folder / "artifacts" / "build" / "build.tar.gz", runner.folder / "unpacked")
    assert (build / ".aws-sam" / "build" / "StreamFunction" / "bootstrap").stat().st_mode & 0o777 == 0o755
    assert (runner.folder / "artifacts" / "build" / "build.tar.gz").stat().st_mode & 0o777 == 0o644

    assert assert_allowed(cloud) == DEPLOYING


def test_a_change_updates_the_stack_and_one_by_hand_is_found(set_up: SetUp) -> None:
    """A push without a change, one with one, then the weekly comparison: in sync, and after a change by hand not."""
    project = set_up("staging")
    runner, cloud = project.runner, project.cloud
    runner.known = UNCHECKED
    assert runner.run("deploy.yml", "push")["staging/deploy"].result == "success"

    runner.known = {**UNCHECKED, **runner.keep_build()}
    job = runner.run("deploy.yml", "push")["staging/deploy"]
    assert job.result == "success", job.log
    assert "Is up to date." in job.summary
    runner.known, runner.artifact = UNCHECKED, None
    assert "Execute the change set" not in job.steps

    template = project.folder / "template.yaml"
    template.write_text(template.read_text(encoding="utf-8").replace("MemorySize: 512", "MemorySize: 640"))
    project.commit()
    jobs = runner.run("deploy.yml", "push")
    assert jobs["production"].result == "skipped", "it is not set up"
    assert "| Modify | `StreamFunction` | AWS::Lambda::Function | False |\n" in jobs["staging/deploy"].summary
    assert cloud.stacks()["lambda-stream-staging"] == "UPDATE_COMPLETE"
    assert deployed(project, "lambda-stream-staging")["MemorySize"] == 640

    jobs = runner.run("deploy.yml", "schedule")
    assert ran(jobs) == {
        "drift staging": "success",
    }, "\n".join(job.log for job in jobs.values())
    assert "### lambda-stream-staging: IN_SYNC" in jobs["drift staging"].summary
    name = deployed(project, "lambda-stream-staging")["FunctionName"]
    cloud.client("lambda").update_function_configuration(FunctionName=name, Timeout=5)
    job = runner.run("deploy.yml", "schedule")["drift staging"]
    assert job.result == "failure"
    assert "### lambda-stream-staging: DRIFTED" in job.summary
    assert '"resource": "StreamFunction"' in job.summary
    assert assert_allowed(cloud) == DEPLOYING | {
        "cloudformation:GetTemplateSummary",  # of a stack that there is
        *("cloudformation:DetectStackDrift", "cloudformation:DetectStackResourceDrift"),
        *("cloudformation:DescribeStackDriftDetectionStatus", "cloudformation:DescribeStackResourceDrifts"),
    }


def test_a_pull_request_gets_a_preview_until_it_is_closed(set_up: SetUp) -> None:
    """Opened, pushed to again, closed; and a fork, an update by Dependabot and a stack that there never was."""
    project = set_up("preview")
    runner, cloud = project.runner, project.cloud
    runner.known = UNCHECKED
    pull = "refs/pull/7/merge"

    fork = {**PULL_REQUEST, "head": {"sha": "bad", "repo": {"full_name": "mallory/lambda-stream"}}}
    dependabot = {**PULL_REQUEST, "user": {"login": "dependabot[bot]"}}
    for stranger in (fork, dependabot):
        runner.known = {**UNCHECKED, "ci": {"checksum": ""}}
        jobs = runner.run("deploy.yml", "pull_request", pull, action="opened", number=7, pull_request=stranger)
        assert ran(jobs) == {
            "ci": "success",
        }
    runner.known = UNCHECKED

    jobs = runner.run("deploy.yml", "pull_request", pull, action="opened", number=7, pull_request=PULL_REQUEST)
    assert ran(jobs) == {
        "ci": "success",
        "ci/check": "success",
        "ci/build": "success",
        "preview": "success",
        "preview/deploy": "success",
        "comment": "success",
    }, "\n".join(job.log for job in jobs.values())
    assert cloud.stacks()["lambda-stream-pr-7"] == "CREATE_COMPLETE"
    url, first = jobs["preview/deploy"].outputs["url"], jobs["preview/deploy"].outputs["first-byte"]
    [comment] = project.state()["comments"].values()
    assert comment == f"<!-- preview -->\nPreview of c0ffee: {url}\n\nIt streams; first byte after {first} s."

    runner.known = {**UNCHECKED, **runner.keep_build()}
    again = {**PULL_REQUEST, "head": {**PULL_REQUEST["head"], "sha": "decaf"}}  # type: ignore[dict-item]
    runner.run("deploy.yml", "pull_request", pull, action="synchronize", number=7, pull_request=again)
    [comment] = project.state()["comments"].values()
    assert "Preview of decaf: " in comment

    for _ in range(2):
        jobs = runner.run("deploy.yml", "pull_request", pull, action="closed", number=7, pull_request=PULL_REQUEST)
        assert ran(jobs) == {
            "delete": "success",
        }, jobs["delete"].log
        assert "lambda-stream-pr-7" not in cloud.stacks()
    assert "cloudformation:DeleteStack" in assert_allowed(cloud)


def test_what_does_not_stream_is_not_promoted_and_a_deployment_that_fails_says_why(set_up: SetUp) -> None:
    """The smoke test of staging fails for a buffered response, so production never sees it.

    Why a change set fails is in the summary, in CloudFormation's own words: here there is no log group for a stream of
    the log.
    """
    project = set_up("staging production")
    project.runner.known = UNCHECKED
    app = project.folder / "src" / "app.py"
    app.write_text(
        'def handler(event, context):\n    return {"statusCode": 200, "body": "at once"}\n', encoding="utf-8"
    )
    project.commit()
    jobs = project.runner.run("deploy.yml", "push")
    assert jobs["staging/deploy"].result == "failure"
    assert "did not stream: " in jobs["staging/deploy"].log
    assert jobs["production"].result == "skipped"

    template = project.folder / "template.yaml"
    broken = "  Broken:\n    Type: AWS::Logs::LogStream\n    Properties:\n      LogGroupName: /there/is/none\n\n"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("\nResources:\n", f"\nResources:\n{broken}"), encoding="utf-8")
    project.commit()
    jobs = project.runner.run("deploy.yml", "push")
    assert jobs["staging/deploy"].result == "failure"
    assert jobs["staging/deploy"].steps[-2:] == ["Execute the change set", "Say why it failed"]
    assert "| `Broken` | " in jobs["staging/deploy"].summary
    assert jobs["production"].result == "skipped"

    assert "lambda-stream-production" not in project.cloud.stacks()
    assert "cloudformation:DescribeStackEvents" in assert_allowed(project.cloud)


def test_neither_another_build_nor_another_branch_is_deployed(set_up: SetUp, tmp_path: Path) -> None:
    """A build's checksum goes from job to job beside the archive.

    The trust policy in AWS refuses what the workflow itself would not: a run by hand on another branch.
    """
    project = set_up("staging")
    project.runner.artifact = tmp_path / "artifact"
    project.runner.artifact.mkdir()
    build = project.runner.artifact / "build.tar.gz"
    with tarfile.open(build, "w:gz"):
        pass
    project.runner.known = {"ci": {"checksum": f"{'0' * 64}  build.tar.gz"}}
    job = project.runner.run("deploy.yml", "push")["staging/deploy"]
    assert job.result == "failure"
    assert job.steps == ["Unpack what was built and nothing else"]
    assert "build.tar.gz: FAILED" in job.log

    digest = hashlib.sha256(build.read_bytes()).hexdigest()
    project.runner.known = {"ci": {"checksum": f"{digest}  build.tar.gz"}}
    with pytest.raises(WorkflowError, match="does not admit"):
        project.runner.run("deploy.yml", "workflow_dispatch", "refs/heads/feature")


def test_nothing_is_deployed_before_the_pipeline_is_set_up(set_up: SetUp) -> None:
    """Without the variables of `make pipeline` a push is checked and built, and a pull request too."""
    project = set_up("")
    project.runner.known = {"ci": {"checksum": ""}}
    jobs = project.runner.run("deploy.yml", "push")
    assert ran(jobs) == {
        "ci": "success",
    }
    jobs = project.runner.run("deploy.yml", "pull_request", "", action="opened", number=7, pull_request=PULL_REQUEST)
    assert {job.result for key, job in jobs.items() if key != "ci"} == {"skipped"}
    assert project.runner.run("deploy.yml", "schedule")["drift"].result == "skipped"


# Whatever the options make of the stack: it is deployed, updated and deleted.
SHAPES: list[dict[str, str]] = [
    {"front_door": "cloudfront", "example": "bedrock"},
    {"front_door": "rest-api", "url_auth": "NONE", "cors_origins": "*", "observability": "full"},
]


@pytest.mark.parametrize("answers", SHAPES, ids=lambda answers: ",".join(answers.values()))
def test_a_stack_of_each_shape_is_deployed_updated_and_deleted(answers: dict[str, str], set_up: SetUp) -> None:
    """With the change set, the roles and the boundary of the pipeline; the calls are allowed."""
    project = set_up("preview", **answers)
    project.runner.known = UNCHECKED
    project.runner.environment["LOCAL_STANDIN"] = "1"
    event: dict[str, Any] = {"number": 7, "pull_request": PULL_REQUEST}
    for memory in ("512", "640"):
        template = project.folder / "template.yaml"
        template.write_text(template.read_text(encoding="utf-8").replace("MemorySize: 512", f"MemorySize: {memory}"))
        if memory != "512":
            project.commit()
        jobs = project.runner.run("deploy.yml", "pull_request", "refs/pull/7/merge", action="synchronize", **event)
        assert jobs["preview/deploy"].result == "success", jobs["preview/deploy"].log
        assert deployed(project, "lambda-stream-pr-7")["MemorySize"] == int(memory)
    jobs = project.runner.run("deploy.yml", "pull_request", "refs/pull/7/merge", action="closed", **event)
    assert jobs["delete"].result == "success", jobs["delete"].log
    assert "lambda-stream-pr-7" not in project.cloud.stacks()
    assert_allowed(project.cloud)
