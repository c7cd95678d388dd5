"""A generated project as SAM and CloudFormation process it."""

import json
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hooks.post_gen_project import REGIONS
from hooks.pre_gen_project import AWS
from tests.helpers.infrastructure import IMAGE, assert_clean, linted, transformed
from tests.helpers.support import Bake, for_own_python, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


def test_template_lints_in_every_region(project: Path) -> None:
    assert_clean(project, "us-east-1")
    # The region is only a default in samconfig.toml: the template is the same in all regions.
    template = (project / "template.yaml").read_text(encoding="utf-8")
    plain = json.dumps(transformed(project))
    for text in (template, plain):
        assert linted(text, *REGIONS) == []
        [missing, *_] = linted(text, *REGIONS, "ca-west-1")
        assert "ca-west-1" in missing  # it has no function URLs, which is noticed among the others


def test_sam_validate_uses_cfn_lint(project: Path, tmp_path: Path) -> None:
    text = (project / "template.yaml").read_text(encoding="utf-8")
    (tmp_path / "template.yaml").write_text(text.replace("RESPONSE_STREAM", "STREAM"), encoding="utf-8")
    done = run("sam", "validate", "--lint", "--region", "us-east-1", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "Error: Linting failed" in done.stderr
    [found] = linted((tmp_path / "template.yaml").read_text(encoding="utf-8"), "us-east-1")
    assert found in done.stdout


def test_linter_allows_the_longest_timeout(bake: Bake) -> None:
    project = bake(timeout=str(AWS["timeout"]["most"]))
    assert_clean(project, "us-east-1")
    plain = transformed(project)
    [ignored] = plain["Resources"]["StreamFunction"]["Metadata"].pop("cfn-lint")["config"]["ignore_checks"]
    [found] = linted(json.dumps(plain), "us-east-1")
    assert "is greater than the maximum of" in found
    assert ignored == "E3717"


def test_transformed_resources(project: Path) -> None:
    resources = transformed(project)["Resources"]
    assert {logical_id: resource["Type"] for logical_id, resource in resources.items()} == {
        "StreamFunction": "AWS::Lambda::Function",
        "StreamFunctionRole": "AWS::IAM::Role",
        "StreamLogs": "AWS::Logs::LogGroup",
        "StreamUrl": "AWS::Lambda::Url",
    }
    assert resources["StreamUrl"]["Properties"]["InvokeMode"] == "RESPONSE_STREAM"
    variables = resources["StreamFunction"]["Properties"]["Environment"]["Variables"]
    assert variables == {"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/bootstrap"}


def test_transformed_rest_api_streams(bake: Bake) -> None:
    resources = transformed(bake(front_door="rest-api", timeout=str(AWS["rest_api"]["timeout"])))["Resources"]
    paths = resources["StreamApi"]["Properties"]["Body"]["paths"]
    assert set(paths) == {"/", "/{proxy+}"}
    for path in paths.values():
        integration = path["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"]
        assert integration["responseTransferMode"] == "STREAM"
        assert integration["timeoutInMillis"] == AWS["rest_api"]["timeout"] * 1000
        assert "/response-streaming-invocations" in str(integration["uri"])


def test_transformed_container(bake: Bake) -> None:
    project = bake(runtime="container", python_version="3.14")
    properties = transformed(project)["Resources"]["StreamFunction"]["Properties"]
    assert properties["PackageType"] == "Image"
    assert properties["Code"] == {"ImageUri": IMAGE}
    assert properties["ImageConfig"] == {"Command": ["app.handler"]}
    assert not {"Handler", "Runtime"} & properties.keys()


def names(folder: Path, paths: Iterable[Path] | None = None) -> set[str]:
    return {str(path.relative_to(folder)) for path in paths or folder.rglob("*") if path.is_file()}


def sam_build(project: Path, make_flags: str = "") -> Path:
    """Build as a user does; return the folder that becomes /var/task."""
    done = run("sam", "build", cwd=project, MAKEFLAGS=make_flags, MAKELEVEL="1" if make_flags else "0")
    assert "Build Succeeded" in done.stdout + done.stderr
    return project / ".aws-sam" / "build" / "StreamFunction"


@pytest.mark.parametrize(("architecture", "machine"), [("arm64", "aarch64"), ("x86_64", "x86_64")])
def test_build_contents(architecture: str, machine: str, bake: Bake) -> None:
    project = bake(architecture=architecture)
    (project / "src" / "requirements.txt").write_text("markupsafe==3.0.3\n", encoding="utf-8")
    (project / "src" / "__pycache__").mkdir()
    (project / "src" / "__pycache__" / "stale.cpython-39.pyc").touch()
    artifact = sam_build(project)
    sources = {
        path for folder in (project / "src", project / "runtime") for path in names(folder, folder.rglob("*.py"))
    }
    packages = {path for path in names(artifact) if path.startswith("markupsafe")}
    assert names(artifact) - packages - names(artifact, artifact.rglob("*.pyc")) == {*sources, "bootstrap"}
    assert f"markupsafe/_speedups.cpython-313-{machine}-linux-gnu.so" in packages
    assert not (artifact / "__pycache__" / "stale.cpython-39.pyc").exists()
    assert stat.S_IMODE((artifact / "bootstrap").stat().st_mode) == 0o755
    # Otherwise the build changes modes in uv's cache, and another build changes files while tar packs them.
    assert {path.stat().st_nlink for path in artifact.rglob("*") if path.is_file()} == {1}, "a link into uv's cache"


def test_build_below_another_make(bake: Bake) -> None:
    assert names(sam_build(bake(), "-- STAGE=prod")) >= {"app.py", "bootstrap"}


def test_build_is_compiled(bake: Bake) -> None:
    project = for_own_python(bake())
    artifact = sam_build(project)
    for source in artifact.rglob("*.py"):
        compiled = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        # Byte 4 holds the flags of PEP 552: compiled from a hash (1) that is not checked (no 2).
        assert compiled.read_bytes()[4] == 1
    probed = run(
        *("python", "-m", "local.probe", "--expect-streaming", "--serve", ".aws-sam/build/template.yaml"),
        cwd=project,
        STREAM_INTERVAL="0.05",
    )
    assert len([line for line in probed.stdout.splitlines() if " of 10, " in line]) == 10


def test_build_without_interpreter(bake: Bake) -> None:
    project = bake()
    template = project / "template.yaml"
    # A version that does not exist yet, so that no machine has it.
    template.write_text(template.read_text(encoding="utf-8").replace("python3.13", "python3.99"), encoding="utf-8")
    done = run("make", "build-StreamFunction", cwd=project, ARTIFACTS_DIR=str(project / "artifact"), check=False)
    assert "this machine has no Python 3.99. To add them: uv python install 3.99" in done.stdout
