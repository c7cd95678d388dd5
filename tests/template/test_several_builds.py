"""The packages of a project with several functions: one rule of the Makefile builds each as the template says."""

import re
import shutil
from pathlib import Path

import pytest
from tests.helpers.several import FUNCTIONS, add_functions
from tests.helpers.support import Bake, run

pytestmark = pytest.mark.slow


@pytest.fixture
def several(bake: Bake, tmp_path: Path) -> Path:
    return add_functions(shutil.copytree(bake(), tmp_path / "several"))


def test_each_package(several: Path) -> None:
    (several / "admin" / "requirements.txt").write_text("markupsafe==3.0.3\n", encoding="utf-8")
    (several / "src" / "requirements.txt").write_text("markupsafe==3.0.2\n", encoding="utf-8")
    done = run("make", "build", cwd=several)
    built = several / ".aws-sam" / "build"
    names = {name: {path.name for path in (built / name).iterdir()} for name in FUNCTIONS.values()}
    runtime = {"bootstrap", "streaming_runtime"}
    assert names["AdminFunction"] - {"__pycache__"} == {
        *{"app.py", "markupsafe", "markupsafe-3.0.3.dist-info"},
        *runtime,
    }
    assert names["StreamFunction"] >= {"app.py", "MarkupSafe-3.0.2.dist-info", *runtime}
    assert names["WorkerFunction"] - {"__pycache__"} == {"app.py"}
    # Each for its own Python and architecture.
    assert (built / "AdminFunction" / "markupsafe" / "_speedups.cpython-312-x86_64-linux-gnu.so").is_file()
    assert (built / "StreamFunction" / "markupsafe" / "_speedups.cpython-313-aarch64-linux-gnu.so").is_file()
    sizes = re.findall(r"^\[(\w+)] Package size: \d+ KB \(\d+ KB zipped\)$", done.stdout, re.MULTILINE)
    assert sizes == sorted(FUNCTIONS.values())
    # Neither Docker nor the project's own environment was needed.
    assert not (several / ".venv").exists()


def build(project: Path, name: str, artifact: Path, **more: str) -> str:
    done = run("make", f"build-{name}", cwd=project, check=False, ARTIFACTS_DIR=str(artifact), **more)
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("CodeUri: worker", "CodeUri: wrker", "CodeUri must be a folder beside template.yaml, got 'wrker'"),
        ("CodeUri: worker", "CodeUri: wor ker", "CodeUri must be a folder without blanks and quotes in its name"),
        ("Runtime: python3.13\n      LoggingConfig: {", "Runtime: nodejs24.x\n      LoggingConfig: {", "'nodejs24.x'"),
        (
            "Runtime: python3.13\n      LoggingConfig: {",
            "Runtime: provided.al2023\n      LoggingConfig: {",
            "WorkerFunction: Metadata must name a release, such as PythonVersion: \"3.13.18\", got ''",
        ),
        ("Architectures: [arm64]", "Architectures: [arm]", "Architectures must be arm64 or x86_64, got 'arm'"),
        ("  WorkerFunction:", "  WorkFunction:", "no AWS::Serverless::Function named 'WorkerFunction'"),
    ],
)
def test_unusable_resource_fails(old: str, new: str, message: str, several: Path, tmp_path: Path) -> None:
    template = several / "template.yaml"
    text = template.read_text(encoding="utf-8")
    assert old in text
    template.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert message in build(several, "WorkerFunction", tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_own_rule_replaces_the_generic_one(several: Path, tmp_path: Path) -> None:
    with (several / "Makefile").open("a", encoding="utf-8") as makefile:
        makefile.write('\nbuild-Layer:\n\tmkdir -p "$(ARTIFACTS_DIR)/python"\n')
    assert build(several, "Layer", tmp_path / "layer") == ""
    assert [path.name for path in (tmp_path / "layer").iterdir()] == ["python"]
