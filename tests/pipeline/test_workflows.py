"""The workflows of generated projects and of this repository: linted, and to the same standard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.support import ROOT, TEMPLATE, Bake, run
from tests.pipeline.conftest import Cloud
from tests.pipeline.runner import STAND_INS, Runner

FOLDERS = {"project": TEMPLATE / ".github", "template": ROOT / ".github"}
WORKFLOWS = {
    f"{name}/{path.name}": path
    for name, folder in FOLDERS.items()
    for path in sorted((folder / "workflows").glob("*.yml"))
}
OF_PROJECT = {"ci.yml", "deploy.yml", "environment.yml"}
Workflow = dict[Any, Any]


def load(path: Path) -> Workflow:
    found: Workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def steps(workflow: Workflow) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@pytest.fixture
def repository(bake: Bake, tmp_path: Path) -> Path:
    """A generated project as a git repository, where tools look for workflows."""
    run("cp", "-R", f"{bake()}/.", tmp_path, cwd=tmp_path)
    run("git", "init", "--quiet", cwd=tmp_path)
    return tmp_path


def test_the_linters_have_nothing_to_say_of_a_project(repository: Path) -> None:
    """actionlint with shellcheck follows inputs, outputs and expressions; zizmor looks for what can be attacked."""
    assert {path.name for path in (repository / ".github" / "workflows").iterdir()} == OF_PROJECT
    run("actionlint", cwd=repository)
    found = run("zizmor", "--offline", "--persona", "pedantic", ".github", cwd=repository)
    assert "No findings to report" in found.stdout + found.stderr


def test_the_linters_have_nothing_to_say_of_the_template() -> None:
    """The same for this repository; `make lint` runs them too."""
    run("actionlint", cwd=ROOT)
    found = run("zizmor", "--offline", "--persona", "pedantic", ".github", cwd=ROOT)
    assert "No findings to report" in found.stdout + found.stderr


def test_actionlint_sees_a_mistake(repository: Path) -> None:
    """It does look: an output that the called workflow does not have, and a variable of the shell without quotes."""
    deploy = repository / ".github" / "workflows" / "deploy.yml"
    text = deploy.read_text(encoding="utf-8")
    deploy.write_text(text.replace("needs.ci.outputs.checksum", "needs.ci.outputs.checksums"), encoding="utf-8")
    assert "checksums" in run("actionlint", cwd=repository, check=False).stdout
    deploy.write_text(text.replace('"$detection"', "$detection"), encoding="utf-8")
    assert "SC2086" in run("actionlint", cwd=repository, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_the_schemas_take_them(folder: Path, tools: Path) -> None:
    """The schemas of workflows and of Dependabot's file that check-jsonschema brings."""
    check = tools / "check-jsonschema"
    run(check, "--builtin-schema", "vendor.github-workflows", *sorted((folder / "workflows").iterdir()), cwd=ROOT)
    run(check, "--builtin-schema", "vendor.dependabot", folder / "dependabot.yml", cwd=ROOT)


@pytest.mark.slow
def test_the_roles_are_a_valid_template() -> None:
    """cfn-lint knows IAM's actions, and the sections of a policy."""
    run("cfn-lint", TEMPLATE / "pipeline" / "oidc.yaml", cwd=ROOT)


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_nothing_is_permitted_that_a_job_does_not_name(path: Path) -> None:
    """No permissions at the top, each with its reason in a job, and no credentials left behind by a checkout."""
    workflow, text = load(path), path.read_text(encoding="utf-8")
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert "permissions" in job
    for line in re.findall(r"^ {6}[a-z-]+: (?:read|write).*$", text, re.MULTILINE):
        assert " # " in line, "for what?"
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_no_expression_reaches_a_script(path: Path) -> None:
    """Values come through the environment, where they stay values."""
    for step in steps(load(path)):
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_every_job_ends_by_itself_and_runs_on_a_named_image(path: Path) -> None:
    """A time limit for each job that runs steps, and no image that changes its meaning."""
    for job in load(path)["jobs"].values():
        if "uses" not in job:
            assert 1 <= job["timeout-minutes"] <= 90
            assert job["runs-on"] == "ubuntu-24.04"


def test_every_action_is_pinned_and_the_same_everywhere() -> None:
    """By commit, with its version in a comment; an update by Dependabot has to reach projects too."""
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS.values():
        for line in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8")):
            if line.startswith("$/.github/workflows/"):
                assert (path.parent / line.rpartition("/")[2]).exists()
                continue
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+(\.\d+\.\d+)?", line)
            pins.setdefault(line.partition("@")[0], set()).add(line)
    assert {action: lines for action, lines in pins.items() if len(lines) > 1} == {}


def test_a_deployment_is_never_cancelled() -> None:
    """Jobs that change a stack take turns, one group for each stack; the rest of a run has a group of its own."""
    environment, workflow = (load(WORKFLOWS[f"project/{name}.yml"]) for name in ("environment", "deploy"))
    deploy, delete = environment["jobs"]["deploy"]["concurrency"], workflow["jobs"]["delete"]["concurrency"]
    assert deploy == {"group": "stack-${{ inputs.suffix }}", "cancel-in-progress": False}
    suffix = workflow["jobs"]["preview"]["with"]["suffix"]
    assert delete == {"group": f"stack-{suffix}", "cancel-in-progress": False}
    assert "${{ github.run_id }}" in workflow["concurrency"]["group"]
    assert workflow["concurrency"]["cancel-in-progress"] is False


def test_a_pull_requests_newer_commit_ends_the_check_of_the_one_before() -> None:
    """And no run for a branch ends another's."""
    checks = load(WORKFLOWS["project/ci.yml"])["concurrency"]
    group = "ci-${{ github.event.pull_request.number || github.run_id }}"
    assert checks == {"group": group, "cancel-in-progress": True}


def test_only_this_repositorys_pull_requests_get_credentials() -> None:
    """No `pull_request_target`, and a condition on each job that could become a role."""
    for path in WORKFLOWS.values():
        assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(load(path)[True])
    for name, job in load(WORKFLOWS["project/deploy.yml"])["jobs"].items():
        if "id-token" in job["permissions"]:
            condition = job["if"]
            ours = "github.event_name == 'pull_request' &&" in condition and (
                "head.repo.full_name == github.repository" in condition
            )
            no_pull_request = condition.startswith(
                ("github.event_name != 'pull_request' &&", "github.event_name == 'schedule' &&")
            )
            assert ours or no_pull_request, name


def test_a_project_without_a_pipeline_has_nothing_of_it(bake: Bake) -> None:
    """Neither files nor a command, a parameter or a setting."""
    project = bake(deploy_pipeline="none")
    assert not (project / ".github").exists()
    assert not (project / "pipeline").exists()
    assert "pipeline" not in run("make", "help", cwd=project).stdout
    for file in ("template.yaml", "pyproject.toml", "samconfig.toml", "README.md"):
        text = (project / file).read_text(encoding="utf-8")
        assert "pipeline" not in text.lower(), file
        assert "PermissionsBoundary" not in text
    done = run("make", "help", "REPOSITORY=a/b", cwd=project, check=False)
    assert done.returncode == 2
    assert "unknown option REPOSITORY" in done.stderr


def test_the_pipeline_is_copied_as_it_is(project: Path) -> None:
    """Workflows have braces of their own: they take values from variables, not from the template."""
    for folder in (".github", "pipeline"):
        ours = {
            path.relative_to(TEMPLATE): path.read_bytes() for path in (TEMPLATE / folder).rglob("*") if path.is_file()
        }
        theirs = {
            path.relative_to(project): path.read_bytes() for path in (project / folder).rglob("*") if path.is_file()
        }
        assert theirs == ours


@pytest.mark.parametrize(("tag", "result"), [("v1.2.3", "success"), ("v1.2.30", "failure")])
def test_a_release_has_what_the_changelog_says_of_it(tag: str, result: str, tmp_path: Path) -> None:
    """The steps of the template's own release, and that a version which the changelog does not have fails."""
    repository = tmp_path / "repository"
    run("git", "init", "--quiet", repository, cwd=tmp_path)
    run("cp", "-R", ROOT / ".github", repository, cwd=tmp_path)
    changelog = (
        "# Changelog\n\n## Unreleased\n\n- Later.\n\n## 1.2.3 - 2026-12-01\n\n- This.\n\n## 1.2.2\n\n- Before.\n"
    )
    (repository / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    run("git", "add", "--all", cwd=repository)
    git = ("git", "-c", "user.name=Test", "-c", "user.email=test@example.com")
    run(*git, "commit", "--quiet", "--message", "Release", cwd=repository)
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "gh").symlink_to(STAND_INS / "gh")
    state = tmp_path / "github.json"
    runner = Runner(repository, tmp_path / "runs", (commands,), {"GH_STATE": str(state)}, {}, lambda role: {})
    runner.known = {"ci": {}}
    jobs = runner.run("release.yml", "push", f"refs/tags/{tag}")
    assert jobs["release"].result == result
    if result == "success":
        release = json.loads(state.read_text(encoding="utf-8"))["release"]
        assert release["arguments"][2] == tag
        assert release["notes"].strip() == "- This."
    else:
        assert not state.exists()


@pytest.mark.slow
def test_the_baked_answers_of_ci_are_answers(bake: Bake) -> None:
    """Each choice of the options that shape a stack is in the matrix, and no answer that would be refused."""
    answers = load(WORKFLOWS["template/ci.yml"])["jobs"]["bake"]["strategy"]["matrix"]["answers"]
    for line in answers:
        assert bake(**dict(answer.split("=", 1) for answer in line.split())).is_dir()


@pytest.mark.slow
def test_make_pipeline_needs_a_repository_and_known_environments(project: Path) -> None:
    """What cannot work is said before anything is deployed."""
    command = ("python", "-m", "pipeline")
    for arguments, message in (
        (("--repository", "no-owner"), "Give REPOSITORY=owner/name"),
        (("--repository", "a/b", "--environments", "staging qa"), "no environment qa; there are preview, staging"),
    ):
        done = run(*command, *arguments, cwd=project, check=False)
        assert done.returncode == 1
        assert message in done.stderr


@pytest.mark.slow
def test_make_pipeline_sets_the_variables_of_github(cloud: Cloud, bake: Bake, tmp_path: Path) -> None:
    """Numbers asked with gh, a stack for an environment, its outputs as variables, and a second run that adds one."""
    project, commands, state = bake(project_slug="named"), tmp_path / "commands", tmp_path / "github.json"
    commands.mkdir()
    (commands / "gh").symlink_to(STAND_INS / "gh")
    environment = {**cloud.environment, "GH_STATE": str(state)}
    for name in ("staging", "production"):
        command = ("python", "-m", "pipeline", "--repository", "octo-org/named", "--environments", name)
        path = f"PATH={commands}:{Path(run('which', 'python', cwd=tmp_path).stdout).parent}:/usr/bin:/bin"
        done = run("env", path, *(f"{key}={value}" for key, value in environment.items()), *command, cwd=project)
        assert "They are set." in done.stdout
    found = json.loads(state.read_text(encoding="utf-8"))
    assert found["environments"].count("production") > 0
    variables = found["variables"]
    [stack] = cloud.client("cloudformation").describe_stacks(StackName="pipeline-named-production")["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    assert variables["production/DEPLOY_ROLE_ARN"] == outputs["DeployRoleArn"]
    assert variables["production/CLOUDFORMATION_ROLE_ARN"] == outputs["CloudFormationRoleArn"]
    assert variables["production/PERMISSIONS_BOUNDARY_ARN"] == outputs["PermissionsBoundaryArn"]
    assert variables["production/ARTIFACT_BUCKET"] == outputs["ArtifactBucket"]
    assert variables["production/AWS_REGION"] == "us-east-1"
    assert variables["ENVIRONMENTS"] == "staging production"
    assert [entry["environment"] for entry in json.loads(variables["DRIFT"])] == ["staging", "production"]
    subjects = cloud.trust(outputs["DeployRoleArn"])["Statement"][0]["Condition"]["StringEquals"]
    assert subjects == {
        "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
        "token.actions.githubusercontent.com:sub": [
            "repo:octo-org/named:environment:production",
            "repo:octo-org@4242/named@1001:environment:production",
        ],
        "token.actions.githubusercontent.com:repository_id": "1001",
        "token.actions.githubusercontent.com:ref": "refs/heads/main",
    }
