"""`cold_start: snapstart` after SAM's transform, and on MiniStack, which keeps versions and takes no snapshots."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.infrastructure import assert_clean, transformed
from tests.helpers.support import Answers, Bake, run
from tests.pipeline.conftest import Cloud

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
SNAPPED: Answers = {"cold_start": "snapstart"}
SHAPES: list[Answers] = [
    {},
    {"url_auth": "NONE", "deploy_pipeline": "none"},
    {"front_door": "cloudfront", "runtime": "container"},
    {"front_door": "rest-api", "observability": "full", "deployment": "canary"},
]


@pytest.mark.parametrize("answers", SHAPES, ids=lambda answers: ",".join(answers.values()) or "default")
def test_callers_reach_published_versions(answers: Answers, bake: Bake) -> None:
    """The function has snapshots of its versions, and URL, permissions and API name the alias."""
    project = bake(**SNAPPED, **answers)
    assert_clean(project, "us-east-1")
    resources = transformed(project)["Resources"]
    assert resources["StreamFunction"]["Properties"]["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    [version] = [of for of in resources.values() if of["Type"] == "AWS::Lambda::Version"]
    assert version["DeletionPolicy"] == "Delete"
    assert resources["StreamUrl"]["Properties"]["Qualifier"] == "live"
    assert resources["StreamUrl"]["DependsOn"] == "StreamFunctionAliaslive"
    for of in resources.values():
        if of["Type"] == "AWS::Lambda::Permission":
            assert of["Properties"]["FunctionName"] == {"Ref": "StreamFunctionAliaslive"}
    if answers.get("front_door") == "rest-api":
        paths = resources["StreamApi"]["Properties"]["Body"]["paths"]
        uris = [method["x-amazon-apigateway-integration"]["uri"] for path in paths.values() for method in path.values()]
        assert len(uris) == 2
        assert all("${StreamFunctionAliaslive}" in uri["Fn::Sub"] for uri in uris)
    assert ("UpdatePolicy" in resources["StreamFunctionAliaslive"]) == (answers.get("deployment") == "canary")


@pytest.mark.parametrize("setting", ["MemorySize: 512", "Timeout: 120", "LogFormat: JSON"])
def test_each_change_takes_a_snapshot(setting: str, bake: Bake, tmp_path: Path) -> None:
    """A snapshot of the version before would keep the settings of then."""
    names: list[str] = []
    for value in (setting, setting.replace("512", "640").replace("120", "121").replace("JSON", "Text")):
        project = shutil.copytree(bake(**SNAPPED), tmp_path / str(len(names)))
        text = (project / "template.yaml").read_text(encoding="utf-8")
        (project / "template.yaml").write_text(text.replace(setting, value), encoding="utf-8")
        names += [
            name for name, of in transformed(project)["Resources"].items() if of["Type"] == "AWS::Lambda::Version"
        ]
    assert len(set(names)) == 2


@pytest.mark.timeout(900)
def test_deploy_update_and_delete(bake: Bake, cloud: Cloud, tmp_path: Path) -> None:
    """By hand: the alias follows the newest version, the version before is deleted, nothing is left at the end."""
    project = shutil.copytree(bake(**SNAPPED, deploy_pipeline="none"), tmp_path / "lambda-stream")
    environment: dict[str, Any] = {**cloud.environment}
    functions = cloud.client("lambda")
    seen = []
    run("sam", "build", cwd=project, **environment)
    built = project / ".aws-sam" / "build" / "template.yaml"
    for memory in ("512", "640"):
        built.write_text(built.read_text(encoding="utf-8").replace("MemorySize: 512", f"MemorySize: {memory}"))
        run("sam", "deploy", "--no-confirm-changeset", cwd=project, **environment)
        [name] = [of["FunctionName"] for of in functions.list_functions()["Functions"]]
        versions = functions.list_versions_by_function(FunctionName=name)["Versions"]
        [version] = [of for of in versions if of["Version"] != "$LATEST"]
        assert functions.get_alias(FunctionName=name, Name="live")["FunctionVersion"] == version["Version"]
        assert (version["MemorySize"], version["SnapStart"]["ApplyOn"]) == (int(memory), "PublishedVersions")
        url = functions.get_function_url_config(FunctionName=name, Qualifier="live")
        assert url["InvokeMode"] == "RESPONSE_STREAM"
        seen.append(version["Version"])
    assert seen == ["1", "2"]
    run("sam", "delete", "--no-prompts", cwd=project, **environment)
    assert functions.list_functions()["Functions"] == []
