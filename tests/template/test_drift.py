"""`make drift` tells when what we hold of AWS differs from what packages say, and the weekly workflow reports it."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from drift.limits import FILE
from tests.helpers.support import ROOT, run

pytestmark = pytest.mark.slow

# The newest releases that lack what AWS changed in November 2026: the timeout, and function URLs in eu-south-2.
OLDER = ("botocore==1.44.6", "cfn-lint==1.45.0")
GH = """#!/bin/sh
echo "$*" >>calls.txt
test "$2" != list || cat number.txt
"""


def compared(folder: Path, *packages: str) -> str:
    """Run the recipe of `make drift` in the folder with these packages in place of the newest ones."""
    recipe = run("make", "--no-print-directory", "--dry-run", "--old-file", ".venv/ready", "drift", cwd=ROOT).stdout
    pinned = "".join(f" --with {package}" for package in packages)
    command = recipe.replace("--refresh", "").replace("packages.txt", f"packages.txt{pinned}")
    return run("sh", "-ec", command, cwd=folder, check=False).stdout


def differences(output: str) -> dict[str, str]:
    """Return what each failure says, by its entry."""
    found = re.findall(r"^FAILED \S+\[.*\] - AssertionError: ([\w.]+): (.*)$", output, re.MULTILINE)
    return dict(found)


@pytest.fixture(scope="module")
def older() -> str:
    return compared(ROOT, *OLDER)


def test_older_packages_differ(older: str) -> None:
    found = differences(older)
    assert found["timeout"] == "aws_limits.toml says 1800, botocore 1.44.6 says 900"
    ours, theirs = found["url"].split(", cfn-lint 1.45.0 says ")
    assert ("'eu-south-2'" in ours, "'eu-south-2'" in theirs) == (True, False)


def test_older_figures_differ(tmp_path: Path) -> None:
    """With the figures that we held before, the packages that moved are named. (Pinned: newer ones may say more.)"""
    for path in ("drift", "templates", FILE.relative_to(ROOT)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
        copy(ROOT / path, tmp_path / path)
    held = tmp_path / FILE.relative_to(ROOT)
    text = held.read_text(encoding="utf-8")
    before = text.replace("most = 1800", "most = 900", 1).replace('    "eu-south-2",\n', "", 1)
    held.write_text(before, encoding="utf-8")
    found = differences(compared(tmp_path, "botocore==1.44.7", "cfn-lint==1.58.0"))
    assert found["timeout"] == "aws_limits.toml says 900, botocore 1.44.7 says 1800"
    ours, theirs = found["url"].split(", cfn-lint 1.58.0 says ")
    assert ("'eu-south-2'" in ours, "'eu-south-2'" in theirs) == (False, True)


@pytest.mark.parametrize(("number", "call"), [("", "create --title AWS or a package moved"), ("7", "edit 7")])
def test_workflow_reports_both_sides(number: str, call: str, older: str, tmp_path: Path) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "drift.yml").read_text(encoding="utf-8"))
    step = workflow["jobs"]["drift"]["steps"][-1]
    (tmp_path / "gh").write_text(GH, encoding="utf-8")
    (tmp_path / "gh").chmod(0o755)
    (tmp_path / "number.txt").write_text(number, encoding="utf-8")
    (tmp_path / "drift.txt").write_text(older, encoding="utf-8")
    path = f"{tmp_path}:/usr/bin:/bin"
    run("bash", "-eo", "pipefail", "-c", step["run"], cwd=tmp_path, PATH=path, TITLE=step["env"]["TITLE"])
    assert f"issue {call} --body-file issue.md\n" in (tmp_path / "calls.txt").read_text(encoding="utf-8")
    body = (tmp_path / "issue.md").read_text(encoding="utf-8")
    assert "- timeout: aws_limits.toml says 1800, botocore 1.44.6 says 900\n" in body
    # Without a comparison there is nothing to report, and the job fails.
    (tmp_path / "drift.txt").write_text("error: no network\n", encoding="utf-8")
    done = run("bash", "-eo", "pipefail", "-c", step["run"], cwd=tmp_path, PATH=path, TITLE="", check=False)
    assert done.returncode == 1
