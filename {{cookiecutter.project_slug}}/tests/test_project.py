"""Rules for the files beside `template.yaml`: Makefile, Dockerfile, samconfig.toml, requirements and workflows."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.build import refusal
from local.template import Template as LocalTemplate
from tests.conftest import Template, listed, variables


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


def test_makefile_builds_each_package(project: Path, own: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/building-custom-runtimes.html
    for name, function in own.functions.items():
        metadata = own.resources[name].get("Metadata") or {}
        if metadata.get("BuildMethod") == "makefile":
            check_build(name, steps_of(project, name), function, metadata)
            bundled = not str(function.get("Runtime")).startswith("python")
            assert not bundled or (project / "interpreter.sh").is_file(), (
                f"{name}: restore interpreter.sh, which copies Python into the package"
            )


def steps_of(project: Path, name: str) -> str:
    """Return what `make build-NAME` would run, with the values that it reads from the template."""
    command = ["make", "--no-print-directory", "--dry-run", f"build-{name}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment["ARTIFACTS_DIR"] = "/artifact"
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{name}: keep the target build-% in the Makefile, which sam build runs: {done.stderr}"
    assert 'test -n ""' not in done.stdout, f"correct {name}: {done.stderr}"
    return done.stdout.replace("\\\n", " ")


def check_build(name: str, steps: str, function: dict[str, Any], metadata: dict[str, Any]) -> None:
    bundled = not str(function.get("Runtime")).startswith("python")
    copied = re.search(r'^cp -R (.*)"/artifact"', steps, re.MULTILINE)
    folders = [folder.removesuffix("/.") for folder in copied[1].split()] if copied else []
    code = str(function.get("CodeUri", "src/")).rstrip("/")
    assert code in folders, f"{name}: copy $(code)/. into $(ARTIFACTS_DIR)"
    runs = bundled or "AWS_LAMBDA_EXEC_WRAPPER" in variables(function)
    assert ("runtime" in folders) == runs, (
        f"{name}: copy runtime/. into $(ARTIFACTS_DIR) if it streams, or the package has no bootstrap; else do not"
    )
    machine = {"arm64": "aarch64"}.get(*2 * listed(function.get("Architectures", ["x86_64"])))
    platform = re.search(r"--python-platform (\S+?)-(manylinux\S*)", steps)
    assert platform, f"{name}: install requirements with --python-platform $(machine)-manylinux_2_34"
    assert platform[1] == machine, f"{name}: install requirements for {machine}, the architecture of the template"
    # Amazon Linux 2023 has glibc 2.34: https://docs.aws.amazon.com/linux/al2023/ug/compare-with-al2.html
    glibc = [int(number) for number in re.findall(r"manylinux_2_(\d+)", platform[2])] or [17]
    assert max(glibc) <= 34, f"{name}: use manylinux_2_34: Lambda has glibc 2.34, not 2.{max(glibc)}"
    managed = str(function.get("Runtime")).removeprefix("python")
    version = str(metadata.get("PythonVersion")).rpartition(".")[0] if bundled else managed
    found = re.search(r"--python-version (\S+)", steps)
    assert found, f"{name}: install requirements with --python-version $(python_version)"
    assert found[1] == version, f"{name}: install requirements for Python {version}, as in the template, not {found[1]}"
    assert '--target "/artifact"' in steps, f'{name}: install requirements with --target "$(ARTIFACTS_DIR)"'
    readable = re.search(r'^chmod -R \S*\+rX "/artifact"', steps, re.MULTILINE)
    assert readable, f'{name}: keep chmod -R a+rX "$(ARTIFACTS_DIR)": Lambda runs the function as another user'
    unchecked = "compileall" not in steps or "--invalidation-mode unchecked-hash" in steps
    assert unchecked, f"{name}: compile with --invalidation-mode unchecked-hash, or Lambda ignores the .pyc files"
    assert "--only-binary :all:" in steps, (
        f"{name}: install requirements with --only-binary :all:, or they are built for this machine"
    )
    if bundled:
        release = str(metadata.get("PythonVersion"))
        copies = re.search(rf'test -z "{release}" \|\| sh interpreter\.sh {release} \S+ "/artifact/python"', steps)
        assert copies, (
            f'{name}: keep: test -z "$(bundled)" || sh interpreter.sh $(bundled) $(architecture) '
            '"$(ARTIFACTS_DIR)/python"'
        )


def test_dockerfile_of_each_image(project: Path, own: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/python-image.html
    for name, function in own.functions.items():
        metadata = own.resources[name].get("Metadata") or {}
        if function.get("PackageType") == "Image" and "Dockerfile" in metadata:
            check_dockerfile(name, project, metadata)


def check_dockerfile(name: str, project: Path, metadata: dict[str, Any]) -> None:
    arguments = metadata.get("DockerBuildArgs") or {}
    context = project / metadata.get("DockerContext", ".")
    text = (context / metadata["Dockerfile"]).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    unset = [argument for argument in re.findall(r"^ARG (\w+)$", text, re.MULTILINE) if argument not in arguments]
    assert not unset, f"{name}: set {unset} under DockerBuildArgs in template.yaml"
    if "CODE" in arguments:
        assert (context / str(arguments["CODE"])).is_dir(), f"{name}: set CODE under DockerBuildArgs to a folder"
    base = next((line for line in lines if line.startswith("FROM")), "")
    assert "lambda/python" in base, f"{name}: start FROM public.ecr.aws/lambda/python:…, not {base!r}"
    copied = [line for line in lines if line.startswith("COPY")]
    assert any(re.search(r"\bruntime/ ", line) for line in copied), f"{name}: COPY runtime/, it has the bootstrap"
    assert any(re.search(r"(\bsrc|\$\{?CODE\}?)/ ", line) for line in copied), f"{name}: COPY ${{CODE}}/, its code"
    assert re.search(r"^RUN .*pip install .*--requirement", text, re.MULTILINE), f"{name}: install requirements.txt"
    into = re.search(r"^RUN .*--target \"?\$\{?LAMBDA_TASK_ROOT", text, re.MULTILINE)
    assert into, f"{name}: install into $LAMBDA_TASK_ROOT"
    entry = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert entry == ['ENTRYPOINT ["/var/task/bootstrap"]'], (
        f'{name}: set ENTRYPOINT ["/var/task/bootstrap"]; template.yaml has Command'
    )
    ignored = (project / ".dockerignore").read_text(encoding="utf-8") if (project / ".dockerignore").exists() else ""
    needed = {str(arguments.get("CODE", "src")), "runtime"}
    hidden = {line for line in ignored.splitlines() if line.rstrip("/") in needed}
    assert not hidden, f"{name}: remove {hidden} from .dockerignore, or the image is built without it"


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
    image = any(of.get("PackageType") == "Image" for of in own.functions.values())
    repository = {"image_repository", "image_repositories"} & deploy.keys() or deploy.get("resolve_image_repos") is True
    assert repository or not image, "set resolve_image_repos = true, or name an image_repository"


def test_requirements_have_wheels(project: Path, own: Template) -> None:
    """Each requirement can be installed on Lambda, if uv can look it up: the rule of `make dev` and `make build`."""
    template = LocalTemplate(project / "template.yaml")
    for name in own.functions:
        refused = refusal(template, name)
        assert refused is None, refused


def test_imports_are_required(project: Path, own: Template) -> None:
    """The tools of pyproject.toml are installed here, but not on Lambda."""
    group = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["dev"]
    tools = {normalized(line) for line in group} - {"botocore"}
    modules = importlib.metadata.packages_distributions()
    codes = {str(of.get("CodeUri", "src")).rstrip("/") for of in own.functions.values()}
    for code in sorted(code for code in codes if code not in ("", ".") and (project / code).is_dir()):
        file = project / code / "requirements.txt"
        required = {normalized(line) for line in (file.read_text() if file.is_file() else "").splitlines()}
        todo = set(required)
        while todo:
            needs = {normalized(need) for name in todo for need in requires(name)}
            todo = needs - required
            required |= needs
        for path in sorted((project / code).rglob("*.py")):
            for name in imported(path):
                packages = {normalized(of) for of in modules.get(name.partition(".")[0], ())}
                absent = packages & tools - required
                assert not absent, f"{path.name} imports {name}: add {sorted(absent)[0]} to {code}/requirements.txt"


def imported(path: Path) -> list[str]:
    """Return the names of the modules that a file imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names += [of.name for of in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
    return names


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
