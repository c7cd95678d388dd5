"""The workflows of generated projects and of this repository: linted, and checked for common rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.support import ROOT, TEMPLATE, Bake, run
from tests.pipeline.conftest import stand_in_commands
from tests.pipeline.policies import Template
from tests.pipeline.runner import Runner
from tests.pipeline.test_isolation import OIDC
from tests.pipeline.test_policies import GIVEN

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


def test_project_workflows_pass_linters(repository: Path) -> None:
    """actionlint and shellcheck follow inputs, outputs and expressions; zizmor looks for vulnerabilities."""
    assert {path.name for path in (repository / ".github" / "workflows").iterdir()} == OF_PROJECT
    run("actionlint", cwd=repository)
    found = run("zizmor", "--offline", "--persona", "pedantic", ".github", cwd=repository)
    assert "No findings to report" in found.stdout + found.stderr


def test_template_workflows_pass_linters() -> None:
    """`make lint` runs the same linters."""
    run("actionlint", cwd=ROOT)
    found = run("zizmor", "--offline", "--persona", "pedantic", ".github", cwd=ROOT)
    assert "No findings to report" in found.stdout + found.stderr


def test_actionlint_sees_mistakes(repository: Path) -> None:
    """An unknown output of a called workflow, and an unquoted shell variable."""
    deploy = repository / ".github" / "workflows" / "deploy.yml"
    text = deploy.read_text(encoding="utf-8")
    deploy.write_text(text.replace("needs.ci.outputs.checksum", "needs.ci.outputs.checksums"), encoding="utf-8")
    assert "checksums" in run("actionlint", cwd=repository, check=False).stdout
    deploy.write_text(text.replace('"$detection"', "$detection"), encoding="utf-8")
    assert "SC2086" in run("actionlint", cwd=repository, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_files_match_their_schemas(folder: Path, tools: Path) -> None:
    """Workflows, Dependabot's file and issue forms, by the schemas that check-jsonschema brings."""
    check = tools / "check-jsonschema"
    run(check, "--builtin-schema", "vendor.github-workflows", *sorted((folder / "workflows").iterdir()), cwd=ROOT)
    run(check, "--builtin-schema", "vendor.dependabot", folder / "dependabot.yml", cwd=ROOT)
    for form in (folder / "ISSUE_TEMPLATE").glob("*.yml"):
        schema = "vendor.github-issue-config" if form.name == "config.yml" else "vendor.github-issue-forms"
        run(check, "--builtin-schema", schema, form, cwd=ROOT)


@pytest.mark.slow
def test_roles_are_a_valid_template() -> None:
    """cfn-lint knows IAM's actions and the elements of a policy."""
    run("cfn-lint", TEMPLATE / "pipeline" / "oidc.yaml", cwd=ROOT)


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_jobs_declare_permissions(path: Path) -> None:
    """None for the workflow, a reason for each in a job, and no credentials in the checked-out repository."""
    workflow, text = load(path), path.read_text(encoding="utf-8")
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert "permissions" in job
    for line in re.findall(r"^ {6}[a-z-]+: (?:read|write).*$", text, re.MULTILINE):
        assert " # " in line, "a permission needs its reason in a comment"
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_scripts_contain_no_expressions(path: Path) -> None:
    """Values reach scripts through environment variables, so the shell cannot run them."""
    for step in steps(load(path)):
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_jobs_have_timeout_and_image(path: Path) -> None:
    """Images such as `ubuntu-latest` change without notice."""
    for job in load(path)["jobs"].values():
        if "uses" not in job:
            assert 1 <= job["timeout-minutes"] <= 90
            assert job["runs-on"] == "ubuntu-24.04"


def test_actions_are_pinned_alike() -> None:
    """By commit, with the version in a comment. Dependabot updates this repository alone, and projects follow."""
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS.values():
        for line in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8")):
            if line.startswith("$/.github/workflows/"):
                assert (path.parent / line.rpartition("/")[2]).exists()
                continue
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+(\.\d+\.\d+)?", line)
            pins.setdefault(line.partition("@")[0], set()).add(line)
    assert {action: lines for action, lines in pins.items() if len(lines) > 1} == {}


def test_deployments_take_turns() -> None:
    """One group for all changes of one stack, which cancels nothing that runs. Other runs do not wait."""
    environment, deploy = (load(WORKFLOWS[f"project/{name}.yml"]) for name in ("environment", "deploy"))
    group = "stack-${{ inputs.environment }}-${{ inputs.pull-request }}"
    assert environment["concurrency"] == {"group": group, "cancel-in-progress": False}
    changing = [name for name, job in deploy["jobs"].items() if "environment" in job.get("with", {})]
    assert changing == ["staging", "production", "preview"]
    assert all("environment" not in job for job in deploy["jobs"].values()), "only environment.yml changes stacks"
    assert "${{ github.run_id }}" in deploy["concurrency"]["group"]
    assert deploy["concurrency"]["cancel-in-progress"] is False


def test_preview_asks_for_the_state() -> None:
    """The lookup is in the same concurrency group as what depends on it, and deletion is its only alternative."""
    jobs = load(WORKFLOWS["project/environment.yml"])["jobs"]
    assert {name: job.get("if") for name, job in jobs.items()} == {
        "state": None,
        "deploy": "needs.state.outputs.state != 'closed'",
        "delete": "needs.state.outputs.state == 'closed'",
    }
    assert jobs["deploy"]["needs"] == jobs["delete"]["needs"] == ["state"]


def test_new_commit_cancels_old_check() -> None:
    """Only in the same pull request: no run for a branch cancels another."""
    checks = load(WORKFLOWS["project/ci.yml"])["concurrency"]
    group = "ci-${{ github.event.pull_request.number || github.run_id }}"
    assert checks == {"group": group, "cancel-in-progress": True}


def test_sessions_last_as_long_as_jobs() -> None:
    """The action asks for one hour unless told otherwise, and AWS grants no more than the role allows."""
    resources = Template(OIDC, **GIVEN).resources()
    allowed = {
        name: int(resources[role]["Properties"].get("MaxSessionDuration", 3600))
        for name, role in (("deploy", "DeployRole"), ("delete", "DeployRole"), ("drift", "DriftRole"))
    }
    found = {}
    for file in ("environment", "deploy"):
        for name, job in load(WORKFLOWS[f"project/{file}.yml"])["jobs"].items():
            for step in job.get("steps", []):
                if "configure-aws-credentials@" in step.get("uses", ""):
                    found[name] = int(step["with"]["role-duration-seconds"])
                    assert 60 * job["timeout-minutes"] <= found[name] <= allowed[name], name
    assert found.keys() == allowed.keys()


def test_forks_get_no_credentials() -> None:
    """No `pull_request_target`, and a condition on each job that could assume a role."""
    for path in WORKFLOWS.values():
        assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(load(path)[True])
    for name, job in load(WORKFLOWS["project/deploy.yml"])["jobs"].items():
        if "id-token" in job["permissions"]:
            condition = job["if"].removeprefix("!cancelled() && ")
            ours = condition.startswith("github.event_name == 'pull_request' &&") and (
                "&& github.event.pull_request.head.repo.full_name == github.repository &&" in condition
                and "&& github.event.pull_request.user.login != 'dependabot[bot]' &&" in condition
            )
            not_from_pull_request = condition.startswith(
                ("github.event_name != 'pull_request' &&", "github.event_name == 'schedule' &&")
            )
            assert ours or not_from_pull_request, name


def test_project_without_pipeline(bake: Bake) -> None:
    """It has no files, command, parameter or setting of the pipeline."""
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


def test_pipeline_is_copied_verbatim(project: Path) -> None:
    """Workflows take values from variables: their own braces must not be rendered."""
    for folder in (".github", "pipeline"):
        ours = {
            path.relative_to(TEMPLATE): path.read_bytes() for path in (TEMPLATE / folder).rglob("*") if path.is_file()
        }
        theirs = {
            path.relative_to(project): path.read_bytes() for path in (project / folder).rglob("*") if path.is_file()
        }
        assert theirs == ours


@pytest.mark.parametrize(("tag", "result"), [("v1.2.3", "success"), ("v1.2.30", "failure")])
def test_release_has_its_notes(tag: str, result: str, tmp_path: Path) -> None:
    """The release of this repository. A version that the changelog does not list fails."""
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
    commands = stand_in_commands(tmp_path)
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
def test_ci_bakes_valid_answers(bake: Bake) -> None:
    """The matrix of this repository's CI."""
    answers = load(WORKFLOWS["template/ci.yml"])["jobs"]["bake"]["strategy"]["matrix"]["answers"]
    for line in answers:
        assert bake(**dict(answer.split("=", 1) for answer in line.split())).is_dir()
