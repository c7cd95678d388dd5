"""What we hold of AWS beside what the newest packages say: one row for each figure and list. `make drift` runs it.

A difference tells that AWS or a package moved, not that the template has a fault: look up what is true now, and change
`aws_limits.toml`, or the row if the package now says it elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from typing import Any, NamedTuple

import pytest
from botocore.validate import ParamValidator
from drift import sources
from drift.limits import ROOT, entries, load
from drift.sources import constructs, model, named, number, said, schema

AWS = load()
PROJECT = ROOT / "{{cookiecutter.project_slug}}"
# Pages that no package repeats are to be read again after this time.
LONGEST_TRUST = timedelta(days=365)


class Row(NamedTuple):
    """A figure or list: which entry holds it, what that says, which package it is compared with, and what that says."""

    entry: str
    ours: Any
    package: str
    theirs: Callable[[], Any]


def shape(name: str, limit: str) -> Callable[[], Any]:
    """Return a limit in botocore's model of Lambda."""
    return lambda: model("lambda").shape_for(name).metadata[limit]


def cors(definition: str, limit: str) -> Callable[[], Any]:
    return lambda: schema("AWS::Lambda::Url")["definitions"][definition][limit]


def known(ours: Any, theirs: Callable[[], set[str]]) -> Callable[[], Any]:
    """Return our list with what only the other side has: AWS documents more than such a package knows."""
    return lambda: [*ours, *sorted(theirs() - {*ours})]


def missing(theirs: Callable[[], set[str]], ours: set[str]) -> Callable[[], Any]:
    return lambda: sorted(ours - theirs())


def metrics(service: str) -> set[str]:
    text = constructs(f"aws-{service}/lib/{service}-canned-metrics.generated.js")
    return set(re.findall(r'metricName:"(\w+)"', text))


def python_runtimes() -> list[str]:
    found = [name for name in model("lambda").shape_for("Runtime").metadata["enum"] if name.startswith("python3.")]
    return [name for name in found if int(name.partition(".")[2]) >= 11]


def actions() -> set[str]:
    """Return the actions in the policies and permissions of a project, and in its rules."""
    files = [*PROJECT.rglob("*.yaml"), *PROJECT.glob("tests/test_template*.py"), *ROOT.glob("templates/resources/*")]
    found: set[str] = set()
    for path in files:
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^ *- ([a-z][a-z0-9-]+:[A-Z]\w+)(?: #.*)?$", text, re.MULTILINE))
        found |= set(re.findall(r'(?:Action: |")([a-z][a-z0-9-]+:[A-Z]\w+)(?="|$)', text, re.MULTILINE))
    return {action.lower() for action in found}


def policy(name: str) -> str:
    """Return the id of a policy of CloudFront in the CDK, which has the name in capitals."""
    text = constructs("aws-cloudfront/lib/cache-policy.js") + constructs("aws-cloudfront/lib/origin-request-policy.js")
    found = re.search(rf'static {name.upper()}=\w+\.fromManaged\w+\("([0-9a-f-]+)"\)', text)
    return found[1] if found else f"no {name.upper()}"


CUSTOMER_MANAGED = "support of customer-managed runtimes"
# Of docs/packaging.md: what CloudFormation is given, and the call that takes the same.
RUNTIME_RESOURCES = {
    "AWS::Lambda::Runtime": "CreateRuntime",
    "AWS::Lambda::RuntimeVersion": "CreateRuntimeVersion",
    "AWS::Lambda::RuntimeAlias": "CreateRuntimeAlias",
}


def documented_runtimes() -> dict[str, dict[str, str]]:
    """Return the properties of each resource of a customer-managed runtime in the documents, by its type."""
    text = (ROOT / "docs" / "packaging.md").read_text(encoding="utf-8")
    found = re.findall(r"^    Type: (AWS::Lambda::Runtime\w*)\n    Properties:\n((?:      .+\n)+)", text, re.MULTILINE)
    lines = {kind: re.findall(r"^ +(\w+): (.+)$", block, re.MULTILINE) for kind, block in found}
    # The name of another resource stands for !Ref.
    return {
        kind: {key: re.sub(r"^!Ref .*$", "python-streaming", value).strip('"') for key, value in pairs}
        for kind, pairs in lines.items()
    }


RETENTION = AWS["log_retention"]["days"]
PREVIEW = [*AWS["python"]["preview"]["names"]]
TIMEOUT = r"maximum allowed value is (\d+) seconds\. For functions using Lambda Managed Instances"
ROWS = [
    Row(
        "timeout",
        AWS["timeout"]["most"],
        "botocore",
        lambda: number(TIMEOUT, said("CreateFunctionRequest", "Timeout")),
    ),
    Row(
        "timeout",
        AWS["timeout"]["default"],
        "botocore",
        lambda: number(r"default is (\d+) seconds", said("CreateFunctionRequest", "Timeout")),
    ),
    Row("timeout", AWS["timeout"]["least"], "botocore", shape("Timeout", "min")),
    Row("timeout.linted", AWS["timeout"]["linted"]["most"], "cfn-lint", sources.linted_timeout),
    Row("memory", AWS["memory"]["least"], "botocore", shape("MemorySize", "min")),
    Row(
        "memory",
        AWS["memory"]["least"],
        "cfn-lint",
        lambda: schema("AWS::Lambda::Function")["properties"]["MemorySize"]["minimum"],
    ),
    Row("memory.managed_instances", AWS["memory"]["managed_instances"]["most"], "botocore", shape("MemorySize", "max")),
    Row(
        "concurrency",
        AWS["concurrency"]["unreserved"],
        "botocore",
        lambda: number(
            r"at least (\d+) simultaneous executions unreserved",
            re.sub(r"<[^>]*>", "", model("lambda").operation_model("PutFunctionConcurrency").documentation),
        ),
    ),
    Row(
        "architectures",
        sorted(AWS["architectures"]["names"]),
        "botocore",
        lambda: sorted(model("lambda").shape_for("Architecture").metadata["enum"]),
    ),
    Row(
        "python",
        AWS["python"]["names"],
        "botocore",
        lambda: [name for name in python_runtimes() if name not in PREVIEW],
    ),
    Row("python.preview", PREVIEW, "botocore", lambda: [name for name in python_runtimes() if name in PREVIEW]),
    Row(
        "python.not_built",
        AWS["python"]["not_built"]["names"],
        "aws-lambda-builders",
        lambda: sorted({*python_runtimes()} - sources.sam_builds()),
    ),
    Row(
        "python.releases",
        AWS["python"]["releases"]["newest"],
        "uv",
        lambda: {key: sources.newest_releases().get(key) for key in AWS["python"]["releases"]["newest"]},
    ),
    Row("cors", AWS["cors"]["origins"], "botocore", shape("AllowOriginsList", "max")),
    Row("cors", AWS["cors"]["origins"], "cfn-lint", cors("AllowOrigins", "maxItems")),
    Row("cors", AWS["cors"]["origin_length"], "botocore", shape("Origin", "max")),
    Row("cors", AWS["cors"]["max_age"], "botocore", shape("MaxAge", "max")),
    Row(
        "cors",
        AWS["cors"]["methods"],
        "cfn-lint",
        lambda: sorted(schema("AWS::Lambda::Url")["definitions"]["AllowMethods"]["items"]["enum"]),
    ),
    Row("url", AWS["url"]["regions"], "cfn-lint", sources.url_regions),
    Row(
        "log_retention",
        RETENTION,
        "cfn-lint",
        lambda: schema("AWS::Logs::LogGroup")["properties"]["RetentionInDays"]["enum"],
    ),
    Row(
        "log_retention",
        RETENTION,
        "botocore",
        lambda: [
            int(days)
            for days in re.findall(
                r"\d+", said("PutRetentionPolicyRequest", "retentionInDays", "logs").partition(". To")[0]
            )
        ],
    ),
    Row(
        "cloudfront",
        AWS["cloudfront"]["silence"],
        "botocore",
        lambda: number(r"the maximum is (\d+) seconds", said("CustomOriginConfig", "OriginReadTimeout", "cloudfront")),
    ),
    Row(
        "cloudfront",
        AWS["cloudfront"]["default_silence"],
        "botocore",
        lambda: number(r"otherwise\) is (\d+) seconds", said("CustomOriginConfig", "OriginReadTimeout", "cloudfront")),
    ),
    *(
        Row("cloudfront.policies", AWS["cloudfront"]["policies"][name], "aws-cdk-lib", partial(policy, name))
        for name in ("caching_disabled", "use_origin_cache_control_headers", "all_viewer_except_host_header")
    ),
    Row("codedeploy", AWS["codedeploy"]["gradual"], "aws-sam-translator", sources.deployment_types),
    Row(
        "codedeploy",
        [],
        "aws-sam-translator",
        missing(sources.managed_policies, {AWS["codedeploy"]["policy"].rpartition("/")[2]}),
    ),
    Row(
        "metrics.lambda",
        AWS["metrics"]["lambda"]["names"],
        "aws-cdk-lib",
        known(AWS["metrics"]["lambda"]["names"], lambda: metrics("lambda")),
    ),
    Row(
        "metrics.api_gateway",
        AWS["metrics"]["api_gateway"]["names"],
        "aws-cdk-lib",
        known(AWS["metrics"]["api_gateway"]["names"], lambda: metrics("apigateway")),
    ),
    Row(
        "bedrock",
        [*AWS["bedrock"]["profiles"]],
        "aws-cdk.aws-bedrock-alpha",
        known([*AWS["bedrock"]["profiles"]], sources.inference_profiles),
    ),
    Row("actions of policies", [], "cfn-lint", missing(sources.policy_actions, actions())),
    # The template can offer customer-managed runtimes once both know them: docs/packaging.md says what is tried today.
    Row(CUSTOMER_MANAGED, False, "aws-sam-translator", sources.translates_runtime_config),
    Row(
        CUSTOMER_MANAGED,
        False,
        "cfn-lint",
        lambda: "RuntimeConfig" in schema("AWS::Lambda::Function")["properties"],
    ),
    Row(
        CUSTOMER_MANAGED,
        [],
        "cfn-lint",
        lambda: [name for name in RUNTIME_RESOURCES if sources.is_resource(name)],
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.entry} ({row.package})")
def test_package_agrees(row: Row) -> None:
    theirs = row.theirs()
    difference = f"{row.entry}: aws_limits.toml says {row.ours}, {named(row.package)} says {theirs}"
    assert row.ours == theirs, difference


@pytest.mark.parametrize("kind", RUNTIME_RESOURCES)
def test_runtime_calls_are_valid(kind: str) -> None:
    """By the types, lengths and patterns of botocore's model; nothing is called."""
    [given] = [of for name, of in documented_runtimes().items() if name == kind]
    shape = model("lambda-core").operation_model(RUNTIME_RESOURCES[kind]).input_shape
    report = ParamValidator().validate(given, shape)
    assert not report.has_errors(), report.generate_report()
    assert given.keys() <= shape.members.keys()
    for name, value in given.items():
        pattern = shape.members[name].metadata.get("pattern", ".*")
        assert re.fullmatch(pattern, value), f"{kind}: {name} does not match {pattern}"


PAGES = {name: of for name, of in entries(AWS) if name not in {row.entry for row in ROWS}}


@pytest.mark.parametrize("name", PAGES)
def test_page_was_read_recently(name: str) -> None:
    """No package says these figures, so somebody has to read the page again once a year."""
    entry = PAGES[name]
    assert entry["source"].startswith("https:"), f"{name}: no row compares it with {entry['source']}; add one"
    due = date.fromisoformat(entry["date"]) + LONGEST_TRUST
    assert date.today() < due, f"{name}: read {entry['source']} again and set its date, which is {entry['date']}"
