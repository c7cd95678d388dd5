"""Rules for the files beside `template.yaml`: Makefile, Dockerfile, samconfig.toml, requirements and workflows."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import Template, listed


@pytest.fixture(scope="module")
def own(project: Path) -> Template:
    """Return the project's own template, which its other files have to match."""
    return Template(project / "template.yaml")


def test_bootstrap_is_executable(project: Path) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html
    bootstrap = project / "runtime" / "bootstrap"
    assert bootstrap.is_file(), f"restore {bootstrap}, which the build copies into the package"
    assert os.access(bootstrap, os.X_OK), f"run chmod +x {bootstrap}, or Lambda cannot start it"
    windows = b"\r" in bootstrap.read_bytes()
    assert not windows, f"{bootstrap} has Windows line endings, with which Lambda cannot start it; keep .gitattributes"


def test_makefile_builds_the_package(project: Path, own: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/building-custom-runtimes.html
    function = own.functions["StreamFunction"]
    if function.get("PackageType") == "Image":
        return
    makefile = (project / "Makefile").read_text(encoding="utf-8")
    target = re.search(r"^build-StreamFunction:.*\n\t", makefile, re.MULTILINE)
    assert target, "keep the target build-StreamFunction in the Makefile, which sam build runs"
    # What the target would run, with the versions that it reads from the template.
    command = ["make", "--no-print-directory", "--dry-run", "build-StreamFunction"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment["ARTIFACTS_DIR"] = "/artifact"
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    steps = done.stdout.replace("\\\n", " ")
    assert re.search(r"^cp .*\bruntime/\. .*/artifact", steps, re.MULTILINE), (
        "copy runtime/. into $(ARTIFACTS_DIR), or the package has no bootstrap"
    )
    assert re.search(r"^cp .*\bsrc/\.? ?", steps, re.MULTILINE), "copy src/. into $(ARTIFACTS_DIR)"
    machine = {"arm64": "aarch64"}.get(*2 * listed(function.get("Architectures", ["x86_64"])))
    platform = re.search(r"--python-platform (\S+?)-(manylinux\S*)", steps)
    assert platform, "install requirements with --python-platform $(machine)-manylinux_2_34"
    assert platform[1] == machine, f"install requirements for {machine}, the architecture of the template"
    # Amazon Linux 2023 has glibc 2.34: https://docs.aws.amazon.com/linux/al2023/ug/compare-with-al2.html
    glibc = [int(number) for number in re.findall(r"manylinux_2_(\d+)", platform[2])] or [17]
    assert max(glibc) <= 34, f"use manylinux_2_34: Lambda has glibc 2.34, not 2.{max(glibc)}"
    metadata = own.resources["StreamFunction"].get("Metadata") or {}
    managed = str(function.get("Runtime")).removeprefix("python")
    bundled = not str(function.get("Runtime")).startswith("python")
    version = str(metadata.get("PythonVersion")).rpartition(".")[0] if bundled else managed
    found = re.search(r"--python-version (\S+)", steps)
    assert found, "install requirements with --python-version $(python_version)"
    assert found[1] == version, f"install requirements for Python {version}, as in the template, not {found[1]}"
    assert '--target "/artifact"' in steps, 'install requirements with --target "$(ARTIFACTS_DIR)"'
    readable = re.search(r'^chmod -R \S*\+rX "/artifact"', steps, re.MULTILINE)
    assert readable, 'keep chmod -R a+rX "$(ARTIFACTS_DIR)": Lambda runs the function as another user'
    unchecked = "compileall" not in steps or "--invalidation-mode unchecked-hash" in steps
    assert unchecked, "compile with --invalidation-mode unchecked-hash, or Lambda ignores the .pyc files"
    assert "--only-binary :all:" in steps, (
        "install requirements with --only-binary :all:, or they are built for this machine"
    )
    if bundled:
        release = str(metadata.get("PythonVersion"))
        copied = re.search(rf'test -n "" \|\| sh interpreter\.sh {re.escape(release)} \S+ "/artifact/python"', steps)
        assert copied, (
            'keep: test -n "$(managed)" || sh interpreter.sh $(bundled) $(architecture) "$(ARTIFACTS_DIR)/python"'
        )
        assert (project / "interpreter.sh").is_file(), "restore interpreter.sh, which copies Python into the package"


def test_dockerfile(project: Path, own: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/python-image.html
    if own.functions["StreamFunction"].get("PackageType") != "Image":
        return
    text = (project / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    arguments = (own.resources["StreamFunction"].get("Metadata") or {}).get("DockerBuildArgs") or {}
    unset = [name for name in re.findall(r"^ARG (\w+)$", text, re.MULTILINE) if name not in arguments]
    assert not unset, f"set {unset} under DockerBuildArgs in template.yaml"
    base = next((line for line in lines if line.startswith("FROM")), "")
    assert "lambda/python" in base, f"start FROM public.ecr.aws/lambda/python:…, not {base!r}"
    copied = [line for line in lines if line.startswith("COPY")]
    assert any("runtime/" in line for line in copied), "COPY runtime/, or the image has no bootstrap"
    assert any(re.search(r"\bsrc/ ", line) for line in copied), "COPY src/, which is the function"
    assert re.search(r"^RUN .*pip install .*--requirement", text, re.MULTILINE), "install src/requirements.txt"
    assert re.search(r"^RUN .*--target \"?\$\{?LAMBDA_TASK_ROOT", text, re.MULTILINE), "install into $LAMBDA_TASK_ROOT"
    entry = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert entry == ['ENTRYPOINT ["/var/task/bootstrap"]'], (
        'set ENTRYPOINT ["/var/task/bootstrap"]; template.yaml has Command'
    )
    ignored = (project / ".dockerignore").read_text(encoding="utf-8") if (project / ".dockerignore").exists() else ""
    hidden = {"src", "src/", "runtime", "runtime/"} & set(ignored.splitlines())
    assert not hidden, f"remove {hidden} from .dockerignore, or the image is built without it"


def test_samconfig(project: Path, own: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/serverless-sam-cli-config.html
    config = tomllib.loads((project / "samconfig.toml").read_text(encoding="utf-8"))["default"]
    shared = (config.get("global") or {}).get("parameters") or {}
    deploy = {**shared, **((config.get("deploy") or {}).get("parameters") or {})}
    stack = str(deploy.get("stack_name", ""))
    valid = re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,127}", stack) and stack != "aws-sam-cli-managed-default"
    assert valid, f"set stack_name to letters, digits and hyphens, starting with a letter, not {stack!r}"
    region = str(deploy.get("region", ""))
    assert re.fullmatch(r"[a-z]{2,4}(-[a-z]+)+-[0-9]+", region), f"set region to an AWS region, not {region!r}"
    capabilities = str(deploy.get("capabilities", "")).split()
    named = any("RoleName" in (of.get("Properties") or {}) for of in own.resources.values())
    needed = {"CAPABILITY_NAMED_IAM"} if named else {"CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"}
    assert needed & set(capabilities), f'set capabilities = "{min(needed)}", since the stack has a role'
    bucket = deploy.get("resolve_s3") is True or deploy.get("s3_bucket")
    assert bucket, "set resolve_s3 = true, or name an s3_bucket for the package"
    overrides = re.findall(r"(\w+)=", str(deploy.get("parameter_overrides", "")))
    strangers = set(overrides) - own.parameters.keys()
    assert not strangers, f"parameter_overrides: {sorted(strangers)} are not parameters; use {sorted(own.parameters)}"
    image = own.functions["StreamFunction"].get("PackageType") == "Image"
    repository = {"image_repository", "image_repositories"} & deploy.keys() or deploy.get("resolve_image_repos") is True
    assert repository or not image, "set resolve_image_repos = true, or name an image_repository"


def test_requirements_have_wheels(project: Path, own: Template) -> None:
    """Each requirement can be installed on Lambda, if uv can look it up."""
    # https://docs.astral.sh/uv/reference/cli/#uv-pip-compile
    function = own.functions["StreamFunction"]
    requirements = project / "src" / "requirements.txt"
    lines = [line.strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    local = [line for line in lines if re.match(r"-e\b|--editable|\.{0,2}/|file:|.*@ *file:", line)]
    assert not local, (
        f"src/requirements.txt: {local} cannot be installed on Lambda; use a release, or copy it into src/"
    )
    if not any(line and not line.startswith("#") for line in lines) or function.get("PackageType") == "Image":
        return
    version = re.search(r"3\.\d+", str(function.get("Runtime")) + str(own.resources["StreamFunction"].get("Metadata")))
    machine = "aarch64" if "arm64" in str(function.get("Architectures")) else "x86_64"
    target = ["--python-version", version[0] if version else "3.13", "--python-platform", f"{machine}-manylinux_2_34"]
    command = ["uv", "pip", "compile", "--quiet", "--only-binary", ":all:", *target, str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    unsolvable = done.returncode and re.search("No solution found|not found in the package registry", done.stderr)
    assert not unsolvable, f"src/requirements.txt has no solution with wheels for Lambda; correct it: {done.stderr}"


def test_imports_are_required(project: Path) -> None:
    """The tools of pyproject.toml are installed here, but not on Lambda."""
    group = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["dev"]
    tools = {normalized(line) for line in group} - {"botocore"}
    required = {normalized(line) for line in (project / "src" / "requirements.txt").read_text().splitlines()}
    todo = set(required)
    while todo:
        needs = {normalized(need) for name in todo for need in requires(name)}
        todo = needs - required
        required |= needs
    modules = importlib.metadata.packages_distributions()
    for path in sorted((project / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [of.name for of in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                packages = {normalized(of) for of in modules.get(name.partition(".")[0], ())}
                absent = packages & tools - required
                assert not absent, f"{path.name} imports {name}: add {sorted(absent)[0]} to src/requirements.txt"


def normalized(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def requires(package: str) -> list[str]:
    try:
        return [need for need in importlib.metadata.requires(package) or [] if "extra ==" not in need]
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []


def test_smoke_event(project: Path) -> None:
    """The pipeline sends this event to each deployment, whose response has to stream."""
    tools = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    if (project / "pipeline").is_dir():
        event = str((tools.get("pipeline") or {}).get("smoke-event"))
        assert (project / event).is_file(), f"pyproject.toml: set smoke-event to a file of events/, not {event}"
        content = json.loads((project / event).read_text(encoding="utf-8"))
        http = (content.get("requestContext") or {}).get("http") or {}
        assert http.get("method"), f"{event}: use an event of a function URL, as in events/get.json"


def test_workflow_jobs_exist(project: Path) -> None:
    # https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#jobsjob_idneeds
    for path in sorted((project / ".github" / "workflows").glob("*.yml")):
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
        for name, job in jobs.items():
            missing = [needed for needed in listed(job.get("needs")) if needed not in jobs]
            assert not missing, f"{path.name}: {name} needs {missing}, which is not a job; use one of {[*jobs]}"
            read = set(re.findall(r"\bneeds\.([\w-]+)", str(job))) - set(listed(job.get("needs")))
            assert not read, f"{path.name}: {name} reads {sorted(read)}; add it to the needs of {name}"
            called = str(job.get("uses", ""))
            exists = not called.startswith(("./", "$/")) or (project / called[2:]).is_file()
            assert exists, f"{path.name}: {name} uses {called}, which does not exist"
