"""The generated files: exactly these, with each answer where it belongs and nowhere else."""

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hooks.post_gen_project import OPTIONAL_PATHS, PROFILES, SHARED
from hooks.pre_gen_project import CHOICES, TEMPORARY_PATHS
from tests.helpers.rendering import RENDERED, load_yaml, render
from tests.helpers.support import OPTIONS, ROOT, TEMPLATE, Bake, defaults, files, run, source_files


def template_of(project: Path) -> dict[str, Any]:
    return load_yaml((project / "template.yaml").read_text(encoding="utf-8"))


CONTAINER_FILES = {"Dockerfile", ".dockerignore"}
INTERPRETER_FILES = {"interpreter.sh"}
REST_FILES = {"events/rest.json"}
TOKEN_FILES = {path for chosen, path in OPTIONAL_PATHS if chosen == {"url_auth": "jwt"}}
ORIGIN_FILES = {path for chosen, path in OPTIONAL_PATHS if chosen == {"front_door": "cloudfront", "url_auth": "NONE"}}
SPAN_FILES = {path for chosen, path in OPTIONAL_PATHS if "observability" in chosen}
PIPELINE_FILES = {path for chosen, path in OPTIONAL_PATHS if "deploy_pipeline" in chosen}
EXAMPLES = ("sse", "fastapi", "bedrock", "agent", "mcp")


def of_template() -> tuple[set[str], set[str]]:
    """Return the template's own files, and those of the examples."""
    paths = {path.partition("/")[2] for path in source_files() if path.startswith(TEMPLATE.name)}
    examples = {path for path in paths if path.startswith("examples/")}
    return paths - examples, examples


def test_generated_files(project: Path, bake: Bake) -> None:
    unneeded = CONTAINER_FILES | INTERPRETER_FILES | REST_FILES | TOKEN_FILES | ORIGIN_FILES | SPAN_FILES
    assert set(files(project)) == of_template()[0] - unneeded
    container = files(bake(runtime="container", front_door="rest-api", url_auth="jwt", observability="opentelemetry"))
    assert set(container) == of_template()[0] - INTERPRETER_FILES - (ORIGIN_FILES - TOKEN_FILES)
    both = files(bake(front_door="cloudfront", url_auth="jwt"))
    assert set(both) == of_template()[0] - (unneeded - TOKEN_FILES - ORIGIN_FILES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_files(example: str, project: Path, bake: Bake) -> None:
    own = {
        path.removeprefix(f"examples/{folder}/"): (TEMPLATE / path).read_bytes()
        for folder in (SHARED.get(example), example)
        for path in of_template()[1]
        if path.startswith(f"examples/{folder}/")
    }
    found, default = files(bake(example=example)), files(project)
    assert found.keys() == default.keys() | own.keys()
    assert {path: found[path] for path in own} == own
    changed = {path for path in default if found[path] != default[path]}
    beside = {"README.md"}
    if example in SHARED:
        beside.add("template.yaml")
    if example in SHARED:
        assert {path for path in own if path.startswith("src/")} > {"src/chat.py", "src/protocols.py"}
    else:
        assert len(own.keys() - default.keys()) <= 2  # a page and an event
    if example != "fastapi":  # whose smoke event is the same as that of hello
        beside.add("pyproject.toml")
    assert changed - own.keys() == beside
    assert {"src/app.py", "tests/test_app.py"} <= own.keys()


def test_examples_match_options_file() -> None:
    folders = {path.name for path in (TEMPLATE / "examples").iterdir()}
    assert folders - set(SHARED.values()) | {"hello"} == set(CHOICES["example"])
    assert folders >= set(SHARED.values()) | SHARED.keys()


def test_file_modes(project: Path) -> None:
    executable = [path for path in files(project) if (project / path).stat().st_mode & stat.S_IXUSR]
    assert executable == ["runtime/bootstrap"]
    assert stat.S_IMODE((project / "runtime/bootstrap").stat().st_mode) == 0o755


def test_runtime_folder_is_a_layer(project: Path) -> None:
    """It holds what /opt may hold and nothing else: the bootstrap and the package that it starts."""
    assert {path.name for path in (project / "runtime").iterdir()} == {"bootstrap", "streaming_runtime"}
    assert {path.suffix for path in (project / "runtime" / "streaming_runtime").rglob("*")} == {".py"}


def test_text_files_have_unix_line_endings(project: Path) -> None:
    assert "\n* text=auto eol=lf\n" in (project / ".gitattributes").read_text(encoding="utf-8")
    assert [path for path, content in files(project).items() if b"\r" in content] == []


def test_no_jinja_left(project: Path) -> None:
    own = files(project)
    assert [path for path, content in own.items() if b"cookiecutter" in content] == []
    # In copied files the marks may have another meaning.
    marks = (b"{{", b"{%", b"{#")
    assert [path for path in RENDERED for mark in marks if mark in own[path]] == []


def test_code_is_copied_verbatim(project: Path) -> None:
    copied = {
        path: content for path, content in files(project).items() if path.endswith((".py", "bootstrap", "Makefile"))
    }
    assert copied == {path: (TEMPLATE / path).read_bytes() for path in copied}
    assert len(copied) > 10


def test_generation_is_reproducible(project: Path, bake: Bake) -> None:
    assert files(bake()) == files(project)


def test_generated_whitespace(bake: Bake) -> None:
    for path, content in files(bake(url_auth="NONE", cors_origins="https://example.com")).items():
        assert not content or (content.endswith(b"\n") and not content.endswith(b"\n\n")), path
        assert path == "Makefile" or not [line for line in content.split(b"\n") if line != line.rstrip()], path


@pytest.mark.slow
def test_sam_init_matches_cookiecutter(project: Path, template: Path, tmp_path: Path) -> None:
    run("cookiecutter", template, "--default-config", "--no-input", "-o", tmp_path / "a", cwd=tmp_path)
    run("sam", "init", "--location", template, "--no-input", "--output-dir", tmp_path / "b", cwd=tmp_path)
    for out in (tmp_path / "a", tmp_path / "b"):
        assert [path.name for path in out.iterdir()] == ["lambda-stream"]
        assert files(out / "lambda-stream") == files(project)


@pytest.mark.slow
def test_sam_init_with_name(template: Path, tmp_path: Path) -> None:
    run("sam", "init", "--location", template, "--no-input", "--name", "my-stream", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my-stream"]
    configuration = tomllib.loads((tmp_path / "my-stream" / "samconfig.toml").read_text(encoding="utf-8"))
    assert configuration["default"]["global"]["parameters"]["stack_name"] == "my-stream"


@pytest.mark.slow
def test_next_steps_and_public_notice(template: Path, tmp_path: Path) -> None:
    command = ["cookiecutter", str(template), "--default-config", "--no-input", "-o", str(tmp_path)]
    private = run(*command, cwd=tmp_path).stdout
    assert "cd lambda-stream\n  make dev " in private
    assert "Anyone on the internet" not in private
    public = run(*command, "project_slug=open", "url_auth=NONE", cwd=tmp_path).stdout
    assert "cd open\n" in public
    assert "Anyone on the internet can call the deployed function, and you pay for each call (url_auth: NONE)" in public
    distributed = run(*command, "project_slug=distributed", "front_door=cloudfront", cwd=tmp_path).stdout
    assert (
        "Anyone on the internet can call the deployed function, and you pay for each call (front_door: cl"
        in distributed
    )


FUNCTION = "Resources.StreamFunction.Properties"
METADATA = "Resources.StreamFunction.Metadata"
WRAPPER = {f"{FUNCTION}.Environment.Variables.AWS_LAMBDA_EXEC_WRAPPER": None}
ALARMS = ("Errors", "Throttles", "Url", "MidStreamErrors", "FirstByte")
METRICS = {
    f"{FUNCTION}.Environment.Variables.STREAMING_RUNTIME_METRICS_NAMESPACE": "lambda-stream",
    **{f"Resources.Stream{name}Alarm": "AWS::CloudWatch::Alarm" for name in ALARMS},
    "Resources.StreamAlarms": "AWS::SNS::Topic",
    "Resources.StreamDashboard": "AWS::CloudWatch::Dashboard",
    "Outputs.StreamAlarms": {"Ref": "StreamAlarms"},
}
FRONT_PARAMETERS = {"DomainName", "CertificateArn", "RateLimit", "WebAclArn"}
FRONT_CONDITIONS = {"HasDomain", "HasWebAcl", "LimitsRate"}
FRONT = {
    "Resources.StreamWebAcl": "AWS::WAFv2::WebACL",
    "Outputs.StreamDomainTarget": {"GetAtt": "StreamDistribution.DomainName"},
}
RESOLVED = {"Sub": "{{resolve:secretsmanager:${StreamOriginSecret}:SecretString}}"}
CLOUDFRONT = {
    **FRONT,
    "Resources.StreamDistribution": "AWS::CloudFront::Distribution",
    "Resources.StreamAccessControl": "AWS::CloudFront::OriginAccessControl",
    "Resources.StreamDistributionPermission": "AWS::Lambda::Permission",
    "Resources.StreamDistributionInvokePermission": "AWS::Lambda::Permission",
    "Outputs.StreamDistributionUrl": {"Sub": "https://${StreamDistribution.DomainName}/"},
}
REST_API = {
    "Resources.StreamApi": "AWS::Serverless::Api",
    **FRONT,
    "Outputs.StreamDomainTarget": {"GetAtt": "StreamDomain.RegionalDomainName"},
    "Resources.StreamWebAclAssociation": "AWS::WAFv2::WebACLAssociation",
    "Resources.StreamDomain": "AWS::ApiGateway::DomainName",
    "Resources.StreamDomainMapping": "AWS::ApiGateway::BasePathMapping",
    **{
        f"{FUNCTION}.Events.{event}.{name}": value
        for event, path in (("Root", "/"), ("Paths", "/{proxy+}"))
        for name, value in {
            "Type": "Api",
            "Properties.RestApiId": {"Ref": "StreamApi"},
            "Properties.Path": path,
            "Properties.Method": "ANY",
            "Properties.ResponseTransferMode": "RESPONSE_STREAM",
            "Properties.TimeoutInMillis": 120000,
        }.items()
    },
    "Parameters.DeployRole.Type": "String",
    "Parameters.DeployRole.Default": "",
    "Parameters.DeployRole.Description": "ARN of a role that may call the REST API; the pipeline passes that of its "
    "smoke test",
    "Conditions.HasDeployRole": {"Not": [{"Equals": [{"Ref": "DeployRole"}, ""]}]},
    "Outputs.StreamApiUrl": {"Sub": "https://${StreamApi}.execute-api.${AWS::Region}.${AWS::URLSuffix}/live/"},
}
CORS = "Resources.StreamUrl.Properties.Cors"
ORIGIN = {f"{CORS}.AllowOrigins": ["https://a.com"], f"{CORS}.MaxAge": 3600}
# What `runtime=container` changes.
IMAGE: dict[str, Any] = {
    **dict.fromkeys([f"{FUNCTION}.{name}" for name in ("Runtime", "CodeUri", "Handler")]),
    **dict.fromkeys([f"{METADATA}.{name}" for name in ("BuildMethod", "ContextPath", "WorkingDirectory")]),
    f"{METADATA}.Dockerfile": "Dockerfile",
    f"{METADATA}.DockerContext": ".",
    f"{METADATA}.DockerTag": "latest",
    f"{METADATA}.DockerBuildArgs.PYTHON_VERSION": "3.13",
    f"{FUNCTION}.PackageType": "Image",
    f"{FUNCTION}.ImageConfig.Command": ["app.handler"],
    **WRAPPER,
}
# Answers, and everything in the template that then differs from the default; None stands for a removed value.
EFFECTS: list[tuple[dict[str, str], dict[str, Any]]] = [
    (
        {"runtime": "provided.al2023"},
        {f"{FUNCTION}.Runtime": "provided.al2023", f"{METADATA}.PythonVersion": "3.13.18", **WRAPPER},
    ),
    ({"runtime": "container"}, IMAGE),
    ({"python_version": "3.14"}, {f"{FUNCTION}.Runtime": "python3.14"}),
    (
        {"python_version": "3.12", "runtime": "provided.al2023"},
        {f"{FUNCTION}.Runtime": "provided.al2023", f"{METADATA}.PythonVersion": "3.12.16", **WRAPPER},
    ),
    (
        {"python_version": "3.15", "runtime": "container"},
        {**IMAGE, f"{METADATA}.DockerBuildArgs.PYTHON_VERSION": "3.15-preview"},
    ),
    ({"architecture": "x86_64"}, {f"{FUNCTION}.Architectures": ["x86_64"]}),
    ({"memory": "1024"}, {f"{FUNCTION}.MemorySize": 1024}),
    ({"timeout": "30"}, {f"{FUNCTION}.Timeout": 30}),
    ({"reserved_concurrency": "7"}, {f"{FUNCTION}.ReservedConcurrentExecutions": 7}),
    ({"log_retention": "365"}, {"Resources.StreamLogs.Properties.RetentionInDays": 365}),
    ({"description": "Other"}, {"Description": "Other"}),
    *(
        ({option: value}, {})
        for option, value in (("region", "eu-west-1"), ("project_name", "X"), ("project_slug", "x"))
    ),
    *(({"example": example}, {}) for example in ("sse", "fastapi", "mcp")),
    ({"bedrock_model": "amazon.nova-lite-v1:0"}, {}),
    ({"front_door": "cloudfront"}, CLOUDFRONT),
    (
        {"front_door": "cloudfront", "url_auth": "NONE"},
        {
            f"{FUNCTION}.Handler": "front_door.entry.handler",
            f"{FUNCTION}.Environment.Variables.FRONT_DOOR_HANDLER": "app.handler",
            f"{FUNCTION}.Environment.Variables.ORIGIN_SECRET": RESOLVED,
            "Resources.StreamUrl.Properties.AuthType": "NONE",
            "Resources.StreamUrlPermission": "AWS::Lambda::Permission",
            "Resources.StreamUrlInvokePermission": "AWS::Lambda::Permission",
            "Resources.StreamDistribution": "AWS::CloudFront::Distribution",
            "Resources.StreamOriginSecret": "AWS::SecretsManager::Secret",
            "Resources.StreamViewerHost": "AWS::CloudFront::Function",
            **FRONT,
            "Outputs.StreamDistributionUrl": {"Sub": "https://${StreamDistribution.DomainName}/"},
        },
    ),
    ({"front_door": "rest-api"}, REST_API),
    (
        {"url_auth": "NONE"},
        {
            "Resources.StreamUrl.Properties.AuthType": "NONE",
            "Resources.StreamUrlPermission": "AWS::Lambda::Permission",
            "Resources.StreamUrlInvokePermission": "AWS::Lambda::Permission",
        },
    ),
    (
        {"url_auth": "jwt"},
        {
            f"{FUNCTION}.Handler": "front_door.entry.handler",
            **{
                f"{FUNCTION}.Environment.Variables.{name}": value
                for name, value in (
                    ("FRONT_DOOR_HANDLER", "app.handler"),
                    ("JWT_ISSUER", "https://issuer.example.com"),
                    ("JWT_AUDIENCE", "my-client"),
                    ("JWT_CLIENT_ID", "my-client"),
                    ("JWT_ALGORITHM", "RS256"),
                )
            },
            "Resources.StreamUrl.Properties.AuthType": "NONE",
            "Resources.StreamUrlPermission": "AWS::Lambda::Permission",
            "Resources.StreamUrlInvokePermission": "AWS::Lambda::Permission",
        },
    ),
    ({"jwt_issuer": "https://example.com"}, {}),
    ({"jwt_audience": "other"}, {}),
    ({"cors_origins": "https://a.com"}, {**ORIGIN, f"{CORS}.AllowMethods": ["*"], f"{CORS}.AllowHeaders": ["*"]}),
    (
        {"cors_origins": "https://a.com", "cors_credentials": "yes"},
        {
            **ORIGIN,
            f"{CORS}.AllowCredentials": True,
            f"{CORS}.AllowMethods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
            f"{CORS}.AllowHeaders": ["authorization", "content-type", "last-event-id", "x-amz-content-sha256"],
        },
    ),
    ({"observability": "full"}, METRICS),
    (
        {"observability": "opentelemetry"},
        {
            f"{FUNCTION}.Environment.Variables.STREAMING_RUNTIME_OPENTELEMETRY_FLUSH_MS": "2000",
            f"{FUNCTION}.Environment.Variables.OTEL_EXPORTER_OTLP_ENDPOINT": "",
        },
    ),
    (
        {"observability": "full", "front_door": "rest-api"},
        {**METRICS, **REST_API, "Resources.StreamApiAlarm": "AWS::CloudWatch::Alarm"},
    ),
    (
        {"deployment": "canary"},
        {
            "Parameters.Stage.Type": "String",
            "Parameters.Stage.Default": "development",
            "Parameters.Stage.Description": "Purpose of the stack; in production a new version gets 10% of the traffic "
            "first",
            "Conditions.IsProduction": {"Equals": [{"Ref": "Stage"}, "production"]},
            f"{FUNCTION}.AutoPublishAlias": "live",
            f"{FUNCTION}.AutoPublishAliasAllProperties": True,
            f"{FUNCTION}.DeploymentPreference.Type": {"If": ["IsProduction", "Canary10Percent5Minutes", "AllAtOnce"]},
            f"{FUNCTION}.DeploymentPreference.Role": {"GetAtt": "StreamDeploymentRole.Arn"},
            f"{FUNCTION}.DeploymentPreference.Alarms": [
                {"Ref": "StreamCanaryErrorsAlarm"},
                {"Ref": "StreamCanaryMidStreamErrorsAlarm"},
            ],
            f"{FUNCTION}.Environment.Variables.STREAMING_RUNTIME_METRICS_NAMESPACE": "lambda-stream",
            "Resources.StreamUrl.DependsOn": "StreamFunctionAliaslive",
            "Resources.StreamUrl.Properties.Qualifier": "live",
            "Resources.StreamCanaryErrorsAlarm": "AWS::CloudWatch::Alarm",
            "Resources.StreamCanaryMidStreamErrorsAlarm": "AWS::CloudWatch::Alarm",
            "Resources.StreamDeploymentRole": "AWS::IAM::Role",
        },
    ),
    (
        {"cold_start": "snapstart"},
        {
            f"{FUNCTION}.AutoPublishAlias": "live",
            f"{FUNCTION}.AutoPublishAliasAllProperties": True,
            f"{FUNCTION}.SnapStart.ApplyOn": "PublishedVersions",
            f"{FUNCTION}.VersionDeletionPolicy": "Delete",
            "Resources.StreamUrl.DependsOn": "StreamFunctionAliaslive",
            "Resources.StreamUrl.Properties.Qualifier": "live",
        },
    ),
    (
        {"deploy_pipeline": "none"},
        {
            **dict.fromkeys([f"Parameters.PermissionsBoundary.{name}" for name in ("Type", "Default", "Description")]),
            "Conditions.HasPermissionsBoundary": None,
            f"{FUNCTION}.PermissionsBoundary": None,
        },
    ),
]


def leaves(part: Any, path: str = "") -> dict[str, Any]:
    """Return the values of a template by their paths; lists and references count as values."""
    if not isinstance(part, dict) or {"Ref", "GetAtt", "Sub", "Select", "If", "Not", "And", "Equals"} & part.keys():
        return {path.removeprefix("."): part}
    return {name: value for key, inner in part.items() for name, value in leaves(inner, f"{path}.{key}").items()}


def difference(template: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """Return what differs in a template: new resources by their type, new outputs by their value."""
    new = {
        **{f"Resources.{name}": template["Resources"][name]["Type"] for name in template["Resources"]},
        **{f"Outputs.{name}": template["Outputs"][name]["Value"] for name in template["Outputs"]},
    }
    # Those that belong to a front door have a test of their own.
    front = {"Parameters": FRONT_PARAMETERS, "Conditions": FRONT_CONDITIONS, "Rules": template.get("Rules", {}).keys()}
    kept = {
        name: {key: of for key, of in part.items() if key not in front[name]} if name in front else part
        for name, part in template.items()
    }
    here, there = leaves(kept), leaves(default)
    old = {".".join(path.split(".")[:2]) for path in there}
    found = {path: value for path, value in new.items() if path not in old}
    for path in here.keys() | there.keys():
        if here.get(path) != there.get(path) and ".".join(path.split(".")[:2]) not in found:
            found[path] = here.get(path)
    return found


@pytest.mark.parametrize(("answers", "effect"), EFFECTS, ids=str)
def test_answer_changes_template(answers: dict[str, str], effect: dict[str, Any]) -> None:
    default = load_yaml(render("template.yaml", defaults()))
    assert difference(load_yaml(render("template.yaml", {**defaults(), **answers})), default) == effect


def test_every_option_has_an_effect() -> None:
    assert {option for answers, _ in EFFECTS for option in answers} == set(defaults())
    assert {(option, answer) for answers, _ in EFFECTS for option, answer in answers.items()} >= {
        (option, answer)
        for option, answers in CHOICES.items()
        for answer in answers[1:]
        if (option, answer) not in (("python_version", "3.12"), ("example", "agent"), ("example", "bedrock"))
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "changed"),
    [
        ({"runtime": "provided.al2023"}, ["README.md", "template.yaml", *sorted(INTERPRETER_FILES)]),
        ({"runtime": "container"}, ["README.md", "template.yaml", "samconfig.toml", *sorted(CONTAINER_FILES)]),
        ({"python_version": "3.14"}, ["README.md", "template.yaml", "pyproject.toml"]),
        ({"front_door": "cloudfront"}, ["README.md", "template.yaml"]),
        (
            {"front_door": "cloudfront", "url_auth": "NONE"},
            ["README.md", "template.yaml", "pyproject.toml", *sorted(ORIGIN_FILES)],
        ),
        ({"front_door": "rest-api"}, ["README.md", "template.yaml", *sorted(REST_FILES)]),
        ({"url_auth": "NONE"}, ["README.md", "template.yaml"]),
        ({"url_auth": "jwt"}, ["README.md", "template.yaml", "pyproject.toml", *sorted(TOKEN_FILES)]),
        ({"jwt_issuer": "https://example.com"}, []),
        ({"jwt_audience": "other"}, []),
        ({"cors_origins": "https://a.com"}, ["template.yaml"]),
        ({"cors_origins": "https://a.com", "cors_credentials": "yes"}, ["template.yaml"]),
        ({"observability": "full"}, ["README.md", "template.yaml"]),
        (
            {"observability": "opentelemetry"},
            ["README.md", "template.yaml", "src/requirements.txt", *sorted(SPAN_FILES)],
        ),
        ({"reserved_concurrency": "7"}, ["README.md", "template.yaml"]),
        ({"log_retention": "365"}, ["README.md", "template.yaml"]),
        ({"bedrock_model": "amazon.nova-lite-v1:0"}, []),
        ({"deployment": "canary"}, ["README.md", "template.yaml"]),
        ({"cold_start": "snapstart"}, ["README.md", "template.yaml"]),
        ({"deploy_pipeline": "none"}, ["README.md", "template.yaml", "pyproject.toml", *sorted(PIPELINE_FILES)]),
    ],
    ids=str,
)
def test_answer_changes_files(answers: dict[str, str], changed: list[str], project: Path, bake: Bake) -> None:
    found, default = files(bake(**answers)), files(project)
    assert {path for path in found.keys() | default.keys() if found.get(path) != default.get(path)} == set(changed)


def test_cloudfront_resources() -> None:
    resources = load_yaml(render("template.yaml", {**defaults(), "front_door": "cloudfront"}))["Resources"]
    distribution = resources["StreamDistribution"]["Properties"]["DistributionConfig"]
    assert distribution == {
        "Comment": {"Ref": "AWS::StackName"},
        "Enabled": True,
        "HttpVersion": "http2and3",
        "Aliases": {"If": ["HasDomain", [{"Ref": "DomainName"}], {"Ref": "AWS::NoValue"}]},
        "ViewerCertificate": {
            "If": [
                "HasDomain",
                {
                    "AcmCertificateArn": {"Ref": "CertificateArn"},
                    "MinimumProtocolVersion": "TLSv1.2_2021",
                    "SslSupportMethod": "sni-only",
                },
                {"Ref": "AWS::NoValue"},
            ]
        },
        "WebACLId": {
            "If": [
                "HasWebAcl",
                {"Ref": "WebAclArn"},
                {"If": ["LimitsRate", {"GetAtt": "StreamWebAcl.Arn"}, {"Ref": "AWS::NoValue"}]},
            ]
        },
        "IPV6Enabled": True,
        "Origins": [
            {
                "Id": "StreamUrl",
                "DomainName": {"Select": [2, {"Split": ["/", {"GetAtt": "StreamUrl.FunctionUrl"}]}]},
                "OriginAccessControlId": {"GetAtt": "StreamAccessControl.Id"},
                "ConnectionAttempts": 1,
                "CustomOriginConfig": {
                    "OriginProtocolPolicy": "https-only",
                    "OriginSSLProtocols": ["TLSv1.2"],
                    "OriginReadTimeout": 120,
                    "OriginKeepaliveTimeout": 60,
                },
            }
        ],
        "DefaultCacheBehavior": {
            "TargetOriginId": "StreamUrl",
            "ViewerProtocolPolicy": "redirect-to-https",
            "AllowedMethods": ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"],
            "CachePolicyId": "4135ea2d-6df8-44a3-9df3-4b5a84be39ad",  # CachingDisabled
            "OriginRequestPolicyId": "b689b0a8-53d0-40ab-baf2-68738e2966ac",  # AllViewerExceptHostHeader
            "Compress": False,
        },
    }
    assert resources["StreamAccessControl"]["Properties"]["OriginAccessControlConfig"] == {
        "Name": {"Sub": "${AWS::StackName}-${AWS::Region}"},
        "OriginAccessControlOriginType": "lambda",
        "SigningBehavior": "always",
        "SigningProtocol": "sigv4",
    }
    shared = {
        "FunctionName": {"Ref": "StreamFunction"},
        "Principal": "cloudfront.amazonaws.com",
        "SourceArn": {
            "Sub": "arn:${AWS::Partition}:cloudfront::${AWS::AccountId}:distribution/${StreamDistribution}",
        },
    }
    assert [value["Properties"] for value in resources.values() if value["Type"] == "AWS::Lambda::Permission"] == [
        {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "AWS_IAM", **shared},
        {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True, **shared},
    ]


@pytest.mark.parametrize("deploy_pipeline", CHOICES["deploy_pipeline"])
@pytest.mark.parametrize("front_door", CHOICES["front_door"])
def test_domain_and_limit_are_parameters(front_door: str, deploy_pipeline: str) -> None:
    """They differ between environments. Each is empty by default, and CloudFront reads only from us-east-1."""
    answers = {**defaults(), "front_door": front_door, "deploy_pipeline": deploy_pipeline, "region": "eu-west-1"}
    template = load_yaml(render("template.yaml", answers))
    found = {name: of for name, of in template.get("Parameters", {}).items() if name in FRONT_PARAMETERS}
    assert (
        found.keys()
        == {
            "function-url": set(),
            "rest-api": FRONT_PARAMETERS - {"WebAclArn"},
            "cloudfront": FRONT_PARAMETERS,
        }[front_door]
    )
    assert {of["Default"] for of in found.values()} <= {"", "0"}
    assert all(re.fullmatch(of["AllowedPattern"], of["Default"]) for of in found.values())
    rules = {"DomainHasCertificate", "CertificateHasDomain"} if found else set()
    assert template.get("Rules", {}).keys() == rules | (
        {"WebAclCanBeMadeHere"} if front_door == "cloudfront" else set()
    )
    if not found:
        return
    arn = "arn:aws:acm:{}:123456789012:certificate/12345678-90ab-cdef-1234-567890abcdef"
    accepted = {
        "DomainName": ["api.example.com", "a.b-c.example"],
        "CertificateArn": [arn.format("us-east-1"), *([arn.format("eu-west-1")] if front_door == "rest-api" else [])],
        "RateLimit": ["10", "2000"],
        "WebAclArn": ["arn:aws:wafv2:us-east-1:123456789012:global/webacl/mine/12345678-90ab"],
    }
    refused = {
        "DomainName": ["example", "https://example.com", "Example.com", "*.example.com/", "a..b", "-a.example"],
        "CertificateArn": ["arn", arn.format(""), *([arn.format("eu-west-1")] if front_door == "cloudfront" else [])],
        "RateLimit": ["", "-1", "010", "many"],
        "WebAclArn": ["arn:aws:wafv2:eu-west-1:123456789012:global/webacl/mine/12345678-90ab"],
    }
    for name, of in found.items():
        assert all(re.fullmatch(of["AllowedPattern"], value) for value in accepted[name])
        assert not any(re.fullmatch(of["AllowedPattern"], value) for value in refused[name])


@pytest.mark.parametrize("url_auth", ["NONE", "jwt"])
def test_cloudfront_secret(url_auth: str) -> None:
    """One value, made by AWS, goes to the distribution and to the function, and is seen nowhere else."""
    template = load_yaml(render("template.yaml", {**defaults(), "front_door": "cloudfront", "url_auth": url_auth}))
    resources = template["Resources"]
    config = resources["StreamDistribution"]["Properties"]["DistributionConfig"]
    [origin] = config["Origins"]
    assert "OriginAccessControlId" not in origin
    assert origin["OriginCustomHeaders"] == [{"HeaderName": "x-origin-secret", "HeaderValue": RESOLVED}]
    assert config["DefaultCacheBehavior"]["FunctionAssociations"] == [
        {"EventType": "viewer-request", "FunctionARN": {"GetAtt": "StreamViewerHost.FunctionARN"}}
    ]
    assert resources["StreamOriginSecret"]["Properties"]["GenerateSecretString"] == {
        "PasswordLength": 48,
        "ExcludePunctuation": True,
    }
    assert resources["StreamFunction"]["Properties"]["Environment"]["Variables"]["ORIGIN_SECRET"] == RESOLVED
    assert json.dumps(template).count("StreamOriginSecret") == 3


@pytest.mark.parametrize(
    ("url_auth", "auth"), [("AWS_IAM", {"DefaultAuthorizer": "AWS_IAM", "InvokeRole": "NONE"}), ("NONE", None)]
)
def test_rest_api_authorization(url_auth: str, auth: dict[str, str] | None) -> None:
    answers = {**defaults(), "front_door": "rest-api", "url_auth": url_auth}
    api = load_yaml(render("template.yaml", answers))["Resources"]["StreamApi"]["Properties"]
    assert api["EndpointConfiguration"] == {"Type": "REGIONAL"}
    found = api.get("Auth")
    assert bool(found and found.pop("ResourcePolicy", None)) == (url_auth == "AWS_IAM")  # see tests/pipeline
    assert found == auth


def test_alarm_and_dashboard_metrics() -> None:
    answers = {**defaults(), "observability": "full", "front_door": "rest-api", "project_slug": "slug"}
    resources = load_yaml(render("template.yaml", answers))["Resources"]
    alarms = [value["Properties"] for value in resources.values() if value["Type"] == "AWS::CloudWatch::Alarm"]
    assert {(alarm["Namespace"], alarm["MetricName"]) for alarm in alarms} == {
        *(("AWS/Lambda", metric) for metric in ("Errors", "Throttles", "Url5xxCount")),
        *(("slug", metric) for metric in ("MidStreamErrors", "TimeToFirstByte")),
        ("AWS/ApiGateway", "5XXError"),
    }
    assert all(alarm["AlarmActions"] == [{"Ref": "StreamAlarms"}] for alarm in alarms)
    body = json.loads(resources["StreamDashboard"]["Properties"]["DashboardBody"]["Sub"])
    metrics = [metric for widget in body["widgets"] for metric in widget["properties"]["metrics"]]
    shown = {(metric[0], metric[1]) for metric in metrics if metric[0] != "..."}
    written = ("TimeToFirstByte", "BytesStreamed", "ChunksStreamed", "MidStreamErrors")
    assert {name for namespace, name in shown if namespace == "slug"} == set(written)
    assert {namespace for namespace, _ in shown} == {"slug", "AWS/Lambda"}


def test_alarm_thresholds() -> None:
    answers = {**defaults(), "observability": "full", "deployment": "canary", "front_door": "rest-api"}
    resources = load_yaml(render("template.yaml", answers))["Resources"]
    alarms = {
        name: value["Properties"] for name, value in resources.items() if value["Type"] == "AWS::CloudWatch::Alarm"
    }
    five_minutes, a_minute = ("Sum", 300, 1, 0), ("Sum", 60, 1, 0)
    assert {
        name: (
            alarm.get("Statistic") or alarm["ExtendedStatistic"],
            *(alarm[key] for key in ("Period", "EvaluationPeriods", "Threshold")),
        )
        for name, alarm in alarms.items()
    } == {
        "StreamErrorsAlarm": five_minutes,
        "StreamThrottlesAlarm": five_minutes,
        "StreamUrlAlarm": five_minutes,
        "StreamMidStreamErrorsAlarm": five_minutes,
        "StreamApiAlarm": five_minutes,
        "StreamFirstByteAlarm": ("p99", 300, 3, 12000),
        "StreamCanaryErrorsAlarm": a_minute,
        "StreamCanaryMidStreamErrorsAlarm": a_minute,
    }
    for alarm in alarms.values():
        assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
        assert alarm["TreatMissingData"] == "notBreaching"
    # The description is the first thing that the person on call reads.
    descriptions = {alarm["AlarmDescription"] for alarm in alarms.values()}
    assert len(descriptions) == len(alarms)
    assert all(re.fullmatch(r"[A-Z].+\.", description) for description in descriptions)


@pytest.mark.parametrize("example", SHARED)
@pytest.mark.parametrize("place", PROFILES)
def test_bedrock_policy_resources(place: str, example: str) -> None:
    def policy(model: str) -> list[str]:
        answers = {**defaults(), "example": example, "bedrock_model": model}
        properties = load_yaml(render("template.yaml", answers))["Resources"]["StreamFunction"]["Properties"]
        assert properties["Environment"]["Variables"]["MODEL_ID"] == model
        [statement] = properties["Policies"][0]["Statement"]
        assert (statement["Effect"], statement["Action"]) == ("Allow", "bedrock:InvokeModelWithResponseStream")
        return [resource["Sub"].removeprefix("arn:${AWS::Partition}:bedrock:") for resource in statement["Resource"]]

    assert policy(f"{place}.deepseek.v3.2") == [
        f"${{AWS::Region}}:${{AWS::AccountId}}:inference-profile/{place}.deepseek.v3.2",
        "*::foundation-model/deepseek.v3.2",
    ]
    assert policy("deepseek.v3.2") == ["${AWS::Region}::foundation-model/deepseek.v3.2"]


def test_python_version_in_tools(bake: Bake) -> None:
    configuration = tomllib.loads((bake(python_version="3.12") / "pyproject.toml").read_text(encoding="utf-8"))
    assert configuration["tool"]["mypy"]["python_version"] == "3.12"


def test_slug_and_region_in_samconfig(bake: Bake) -> None:
    project = bake(project_slug="other-stream", region="eu-west-1")
    assert project.name == "other-stream"
    samconfig = tomllib.loads((project / "samconfig.toml").read_text(encoding="utf-8"))
    assert samconfig["default"] == {
        "global": {"parameters": {"stack_name": "other-stream", "region": "eu-west-1"}},
        "validate": {"parameters": {"lint": True}},
        "deploy": {"parameters": {"capabilities": "CAPABILITY_IAM", "confirm_changeset": True, "resolve_s3": True}},
    }


def test_function_and_url(project: Path) -> None:
    template = template_of(project)
    function, url = template["Resources"]["StreamFunction"], template["Resources"]["StreamUrl"]
    assert function["Type"] == "AWS::Serverless::Function"
    assert function["Metadata"] == {"BuildMethod": "makefile", "ContextPath": ".", "WorkingDirectory": "."}
    assert function["Properties"]["Handler"] == "app.handler"
    assert function["Properties"]["Environment"] == {"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/bootstrap"}}
    assert url == {
        "Type": "AWS::Lambda::Url",
        "Properties": {
            "TargetFunctionArn": {"GetAtt": "StreamFunction.Arn"},
            "AuthType": "AWS_IAM",
            "InvokeMode": "RESPONSE_STREAM",
        },
    }


def test_public_url_permissions(project: Path, bake: Bake) -> None:
    private, public = template_of(project)["Resources"], template_of(bake(url_auth="NONE"))["Resources"]
    assert private["StreamUrl"]["Properties"]["AuthType"] == "AWS_IAM"
    assert public["StreamUrl"]["Properties"]["AuthType"] == "NONE"
    assert [name for name, value in private.items() if value["Type"] == "AWS::Lambda::Permission"] == []
    assert [value["Properties"] for value in public.values() if value["Type"] == "AWS::Lambda::Permission"] == [
        {
            "Action": "lambda:InvokeFunctionUrl",
            "FunctionName": {"Ref": "StreamFunction"},
            "Principal": "*",
            "FunctionUrlAuthType": "NONE",
        },
        {
            "Action": "lambda:InvokeFunction",
            "FunctionName": {"Ref": "StreamFunction"},
            "Principal": "*",
            "InvokedViaFunctionUrl": True,
        },
    ]


@pytest.mark.parametrize(
    ("answer", "origins"),
    [("*", ["*"]), ("https://example.com, http://localhost:5173", ["https://example.com", "http://localhost:5173"])],
)
def test_cors_only_with_origins(answer: str, origins: list[str], project: Path, bake: Bake) -> None:
    assert "Cors" not in template_of(project)["Resources"]["StreamUrl"]["Properties"]
    cors = template_of(bake(cors_origins=answer))["Resources"]["StreamUrl"]["Properties"]["Cors"]
    assert cors == {"AllowOrigins": origins, "AllowMethods": ["*"], "AllowHeaders": ["*"], "MaxAge": 3600}


@pytest.mark.parametrize(
    "text",
    [
        "Füße 流れ поток 🚀",
        "👩‍🚀 Tom\u2019s \u201cbest\u201d stream",
        "a: b # c - [d] & *e !f % \\n \\u0041 <i> $(id) ${HOME} }}",
    ],
)
def test_free_text_survives(text: str, bake: Bake) -> None:
    project = bake(project_name=text, project_slug="text", description=text)
    assert template_of(project)["Description"] == text
    assert tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["description"] == text
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {text}\n\n{text}\n")


def test_events_are_function_url_events(project: Path) -> None:
    events = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (project / "events").iterdir()}
    assert set(events) == {"get", "post"}
    assert {event["version"] for event in events.values()} == {"2.0"}
    assert events["post"]["isBase64Encoded"] is True
    assert events["post"]["cookies"] == ["session=abc123", "theme=dark"]
    assert events["post"]["queryStringParameters"] == {"name": "a b", "tag": "x,y"}


def test_tool_settings_match(project: Path) -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    theirs = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    lint = theirs["tool"]["ruff"]["lint"]
    assert {**lint, **ours["tool"]["ruff"]["lint"]} == lint
    # The template's own settings still apply these rules to the examples.
    assert [*lint.pop("per-file-ignores")] == ["!{local,pipeline,runtime,tests}/**"]
    assert lint == ours["tool"]["ruff"]["lint"]
    assert theirs["tool"]["ruff"]["line-length"] == ours["tool"]["ruff"]["line-length"]

    # A project installs the versions that are tested here.
    def bounds(configuration: dict[str, Any]) -> dict[str, str]:
        return dict(re.split("[>=]=", requirement) for requirement in configuration["dependency-groups"]["dev"])

    assert bounds(theirs).items() <= bounds(ours).items()


def test_every_option_has_a_prompt() -> None:
    assert set(OPTIONS["__prompts__"]) == set(defaults())
    assert {
        option: tuple(prompt)[1:] for option, prompt in OPTIONS["__prompts__"].items() if isinstance(prompt, dict)
    } == CHOICES


def test_removed_paths_are_guarded() -> None:
    as_sets = [{(*chosen.items(), path) for chosen, path in of} for of in (TEMPORARY_PATHS, OPTIONAL_PATHS)]
    assert as_sets[0] == {(("example", None), "examples")} | as_sets[1]
