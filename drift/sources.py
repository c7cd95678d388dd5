"""What the newest packages say of AWS. Only `make drift` has them installed."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tarfile
from functools import cache
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import botocore.session

# What the packages call AWS's constructs in TypeScript, compiled.
_CDK = "aws-cdk-lib"
_BEDROCK = "aws-cdk.aws-bedrock-alpha"


@cache
def model(service: str) -> Any:
    """Return botocore's model of a service."""
    return botocore.session.get_session().get_service_model(service)


def said(shape: str, member: str, service: str = "lambda") -> str:
    """Return what botocore's documentation says of a member of a shape, without tags and separators of thousands."""
    text = re.sub(r"<[^>]*>", "", model(service).shape_for(shape).members[member].documentation)
    return re.sub(r"(?<=\d),(?=\d{3})", "", text)


def number(pattern: str, text: str) -> int | str:
    """Return the number that `pattern` finds in a text; the text itself if it says something else now."""
    found = re.search(pattern, text)
    return int(found[1]) if found else text


@cache
def schema(kind: str) -> dict[str, Any]:
    """Return cfn-lint's schema of a resource."""
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    found: dict[str, Any] = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    return found


def is_resource(kind: str) -> bool:
    """Return whether cfn-lint knows a type of resource in us-east-1."""
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    return kind in PROVIDER_SCHEMA_MANAGER.get_resource_types("us-east-1")


def linted_timeout() -> Any:
    """Return the timeout that rule E3717 of cfn-lint allows; None without such a rule."""
    with contextlib.suppress(StopIteration):
        path = next(path for path in _files("cfn-lint") if path.name == "capacity_provider_timeout.json")
        return json.loads(path.read_text(encoding="utf-8"))["then"]["properties"]["Timeout"]["maximum"]
    return None


def url_regions() -> list[str]:
    """Return the regions of botocore whose own schemas in cfn-lint have function URLs.

    For a region without schemas of its own, cfn-lint uses those of another region.
    """
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    folders = {path.name for path in _files("cfn-lint") if "providers" in path.parent.parts[-1:]}
    folders |= {path.parent.name for path in _files("cfn-lint") if "providers" in path.parent.parent.parts[-1:]}
    own = {name.partition(".")[0].replace("_", "-") for name in folders}
    regions = botocore.session.get_session().get_available_regions("lambda")
    return [
        region
        for region in regions
        if region in own and "AWS::Lambda::Url" in PROVIDER_SCHEMA_MANAGER.get_resource_types(region)
    ]


def policy_actions() -> set[str]:
    """Return every action of IAM policies that cfn-lint knows, in lower case."""
    path = next(path for path in _files("cfn-lint") if path.name == "Policies.json")
    services = json.loads(path.read_text(encoding="utf-8"))
    return {f"{service}:{action}" for service, of in services.items() for action in of["Actions"]}


def managed_policies() -> set[str]:
    """Return the names of AWS's managed policies that SAM knows."""
    path = next(path for path in _files("aws-sam-translator") if path.name == "aws_managed_policies.json")
    return {name for of in json.loads(path.read_text(encoding="utf-8")).values() for name in of}


def deployment_types() -> list[str]:
    """Return the ways of CodeDeploy to shift traffic that SAM knows, without the one that does not shift."""
    from samtranslator.model.preferences import deployment_preference_collection as module

    return [kind for kind in module.CODEDEPLOY_PREDEFINED_CONFIGURATIONS_LIST if kind != "AllAtOnce"]


def constructs(path: str, package: str = _CDK) -> str:
    """Return the text of files of the CDK whose path ends so."""
    return "".join(text for name, text in _constructs(package).items() if name.endswith(path))


@cache
def _constructs(package: str) -> dict[str, str]:
    wanted = re.compile(
        r"package/(aws-(cloudfront|lambda|apigateway)/lib/[\w.-]+|bedrock/[\w./-]*cross-region-inference[\w.-]*)\.js"
    )
    archive = next(path for path in _files(package) if path.suffix == ".tgz")
    with tarfile.open(archive) as tar:
        return {
            member.name: stream.read().decode()
            for member in tar
            if wanted.fullmatch(member.name) and (stream := tar.extractfile(member))
        }


def inference_profiles() -> set[str]:
    """Return the prefixes of Bedrock's inference profiles that the CDK knows."""
    return set(re.findall(r'ProfileRegion\["\w+"\] = "([a-z-]+)"', constructs("", _BEDROCK)))


def newest_releases() -> dict[str, str]:
    """Return the newest release of each Python version that uv can download."""
    command = ["uv", "python", "list", "--all-versions", "--only-downloads", "--output-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[int]] = {}
    for of in json.loads(done.stdout):
        if of["implementation"] == "cpython" and of["version"].replace(".", "").isdecimal():
            parts = [int(part) for part in of["version"].split(".")]
            key = f"{parts[0]}.{parts[1]}"
            found[key] = max(found.get(key, parts), parts)
    return {key: ".".join(map(str, parts)) for key, parts in found.items()}


def sam_builds() -> set[str]:
    """Return the Python runtimes that `sam build` can build."""
    path = next(path for path in _files("aws-lambda-builders") if path.name == "supported_runtimes.py")
    return set(re.findall(r'"(python3\.\d+)"', path.read_text(encoding="utf-8")))


def translates_runtime_config() -> bool:
    """Return whether SAM's transform knows the property of a function that names a customer-managed runtime."""
    from samtranslator.model.sam_resources import SamFunction

    return "RuntimeConfig" in SamFunction.property_types


def named(package: str) -> str:
    """Return a package with its installed version."""
    return f"{package} {version(package)}"


@cache
def _files(package: str) -> list[Path]:
    return [Path(str(distribution(package).locate_file(file))) for file in distribution(package).files or ()]
