"""Rules for `template.yaml`: what each function needs to stream, and what linters do not check.

A rule does not apply to resources that the template does not have, nor to values that only AWS knows. The other files
`test_template_….py` have the rules for the URL, the front doors, monitoring and policies.
"""

import re
import symtable
from functools import cache

import botocore.session
import pytest

from local.aws_limits import AWS_LIMITS
from tests.conftest import PROJECT, Template, listed, variables

# Starts the streaming runtime in a managed Python. docs/runtime.md says when this becomes None.
WRAPPER: str | None = "/var/task/bootstrap"


@pytest.mark.parametrize(("limit", "key"), [("Timeout", "timeout"), ("MemorySize", "memory")])
def test_timeout_and_memory_limits(template: Template, limit: str, key: str) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html (Lambda Managed Instances have others)
    least, most = AWS_LIMITS[key]["least"], AWS_LIMITS[key]["most"]
    for name, of in template.functions.items():
        if str(value := of.get(limit)).isdecimal() and "CapacityProviderConfig" not in of:
            assert least <= int(value) <= most, f"{name}: set {limit} to a value from {least} to {most}, not {value}"


def test_architecture(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/foundation-arch.html
    names = AWS_LIMITS["architectures"]["names"]
    for name, of in template.functions.items():
        found = of.get("Architectures", ["x86_64"])
        valid = found in [[one] for one in names] or template.unknown(listed(found)[0])
        assert valid, f"{name}: set Architectures to either {' or '.join(names)}, not {found}"


def test_runtime_exists(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
    known = runtimes()
    for name, of in template.functions.items():
        runtime = of.get("Runtime", known[0])
        valid = runtime in known or template.unknown(runtime)
        assert valid, (
            f"{name}: the installed botocore does not know the runtime {runtime}; correct it, or run uv sync -U"
        )


@cache
def runtimes() -> list[str]:
    model = botocore.session.get_session().get_service_model("lambda")
    return list(model.shape_for("Runtime").metadata["enum"])


def test_reserved_concurrency(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
    for name, of in template.functions.items():
        reserved = of.get("ReservedConcurrentExecutions")
        stops = str(reserved).lstrip("-").isdecimal() and int(str(reserved)) < 1
        assert not stops, f"{name}: ReservedConcurrentExecutions: {reserved} stops it; set 1 or more, or remove it"


def test_handler_exists(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/python-handler.html
    for name, of in template.functions.items():
        image = of.get("PackageType") == "Image"
        handler = listed((of.get("ImageConfig") or {}).get("Command"))[:1] if image else listed(of.get("Handler"))
        built = (template.resources[name].get("Metadata") or {}).get("BuildMethod") == "makefile"
        code = PROJECT / str(of.get("CodeUri", "src"))
        assert code.is_dir() or image or not built, f"{name}: {code} does not exist; correct CodeUri or add the folder"
        if name == "StreamFunction" or template.code(name) is not None:
            assert handler, f"{name}: name the handler in {'ImageConfig: Command' if image else 'Handler'}"
            module, _, function = handler[0].rpartition(".")
            # A package consists of both folders.
            folders = (template.code(name) or PROJECT / "src", PROJECT / "runtime")
            own, shared = (folder / f"{module.replace('.', '/')}.py" for folder in folders)
            path = shared if shared.is_file() and not own.is_file() else own
            assert path.is_file(), f"{name}: {path} of {handler[0]} does not exist; correct the handler or add the file"
            table = symtable.symtable(path.read_text(encoding="utf-8"), str(path), "exec")
            bound = [
                symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()
            ]
            assert function in bound, f"{name}: {path} does not define {function}; correct the handler or define it"


def test_bootstrap_is_the_entry_point(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper
    streaming = {"StreamFunction": "StreamUrl", **template.streaming()}
    for name, of in template.functions.items():
        front = streaming.get(name)
        wrapper, managed = variables(of).get("AWS_LAMBDA_EXEC_WRAPPER"), str(of.get("Runtime")).startswith("python")
        if of.get("PackageType") == "Image" and front:
            assert starts_bootstrap(template, name), (
                f'{name}: set ENTRYPOINT ["/var/task/bootstrap"] in the Dockerfile, or nothing streams from {front}'
            )
        elif str(of.get("Runtime")).startswith("provided"):
            assert wrapper is None, f"{name}: remove AWS_LAMBDA_EXEC_WRAPPER, which works only on managed runtimes"
        elif managed and front and not template.unknown(wrapper or ""):
            own = str(wrapper).startswith("/opt/") and bool(of.get("Layers"))
            remedy = f"set AWS_LAMBDA_EXEC_WRAPPER: {WRAPPER}, or nothing streams from {front}"
            assert wrapper == WRAPPER or own, f"{name}: {remedy if WRAPPER else 'remove AWS_LAMBDA_EXEC_WRAPPER'}"


def starts_bootstrap(template: Template, name: str) -> bool:
    """Return whether the entry point of an image is the bootstrap."""
    of, metadata = template.functions[name], template.resources[name].get("Metadata") or {}
    dockerfile = PROJECT / metadata.get("DockerContext", ".") / metadata.get("Dockerfile", "Dockerfile")
    written = dockerfile.read_text(encoding="utf-8") if dockerfile.is_file() else ""
    entry = str((of.get("ImageConfig") or {}).get("EntryPoint", written))
    return re.search(r"^(ENTRYPOINT )?\[.*bootstrap", entry, re.MULTILINE) is not None


def test_build_method(template: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/building-custom-runtimes.html
    for name, of in template.functions.items():
        metadata = template.resources[name].get("Metadata") or {}
        if of.get("PackageType") != "Image" and template.has_runtime(name):
            found = [metadata.get(key) for key in ("BuildMethod", "ContextPath", "WorkingDirectory")]
            assert found == ["makefile", ".", "."], (
                f"{name}: set BuildMethod: makefile, ContextPath: . and WorkingDirectory: . under Metadata, "
                "or its package has no streaming runtime"
            )
            release = str(metadata.get("PythonVersion"))
            exact = re.fullmatch(r"3\.\d+\.\d+\w*", release) or not str(of.get("Runtime")).startswith("provided")
            assert exact, f"{name}: set PythonVersion under Metadata to a release such as 3.13.18, not {release}"


def test_logs(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-advanced.html
    groups = template.of("AWS::Logs::LogGroup")
    used: dict[str, str] = {}
    for name, of in template.functions.items():
        config = of.get("LoggingConfig") or {}
        # What reads the log expects one JSON object in each line: filters, metrics, `sam logs`.
        json = config.get("LogFormat") == "JSON" or (name != "StreamFunction" and "LogFormat" not in config)
        assert json, f"{name}: set LogFormat: JSON, not {config.get('LogFormat')}"
        key = str(config.get("LogGroup"))[2:-1]
        if key in groups:
            # The pipeline's roles allow no other names, and stacks of one account must not share a name.
            group = str(groups[key].get("LogGroupName"))
            assert group.startswith("/aws/lambda/${AWS::StackName}"), (
                f"{key}: set LogGroupName: !Sub /aws/lambda/${{AWS::StackName}}, not {group}"
            )
            other = used.setdefault(group, key)
            assert other == key, f"{key}: set another LogGroupName than that of {other}, {group}"


def test_depends_on_exists(template: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-specification-generated-resources.html
    for name, resource in template.resources.items():
        for other in listed(resource.get("DependsOn")):
            known = sorted({*template.resources, *template.aliases.values()})
            assert template.exists(other), f"{name}: DependsOn names {other}, which does not exist; use one of {known}"


def test_outputs_exist(template: Template) -> None:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/outputs-section-structure.html
    fixed = {"StreamUrl": "${StreamUrl.FunctionUrl}", "StreamFunctionName": "${StreamFunction}"}
    missing = fixed.keys() - template.outputs.keys()
    assert not missing, f"add the outputs {sorted(missing)}, which the README, scripts and workflows read"
    for name, output in template.outputs.items():
        value = output.get("Value")
        bare = not value or str(value).partition(".")[0] in template.resources
        assert not bare, f"{name}: {value!r} is plain text; write !Ref or !GetAtt before a resource"
        unknown = [other for other in re.findall(r"\$\{(\w+)[.}]", str(value)) if not template.exists(other)]
        assert not unknown, f"{name}: {unknown} do not exist; name one of {[*template.resources]}"
        assert value == fixed.get(name, value), f"{name}: set Value to {fixed.get(name)}, which others read"
        for api, stage in re.findall(r"\$\{(\w+)}\.execute-api\.[^/]*/(\w+)", str(value)):
            found = template.of("AWS::Serverless::Api").get(api, {}).get("StageName", stage)
            assert stage == found or template.unknown(found), f"{name}: the stage of {api} is {found}, not {stage}"
