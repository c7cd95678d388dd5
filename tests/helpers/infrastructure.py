"""A project's template as SAM and its linter see it. Their imports need seconds, so they are where they are used."""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/stream:latest"


@contextmanager
def _own_constructors(loader: Any) -> Iterator[None]:
    constructors, multi = dict(loader.yaml_constructors), dict(loader.yaml_multi_constructors)
    yield
    loader.yaml_constructors, loader.yaml_multi_constructors = constructors, multi


def read_as_sam(template: Path) -> dict[str, Any]:
    """Parse a template as SAM does, and undo what SAM changes in PyYAML for that: it would read dates as text."""
    from samcli.yamlhelper import yaml_parse

    with _own_constructors(yaml.constructor.SafeConstructor), _own_constructors(yaml.SafeLoader):
        source: dict[str, Any] = yaml_parse(template.read_text(encoding="utf-8"))
    return source


def transformed(project: Path, region: str = "us-east-1") -> dict[str, Any]:
    """The plain CloudFormation that the Serverless transform makes from a project's template."""
    from boto3.session import Session
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    source = read_as_sam(project / "template.yaml")
    # The transform requires code in a bucket, or an image in a registry, as after `sam package`.
    for resource in source["Resources"].values():
        properties = resource.get("Properties", {})
        if properties.get("PackageType") == "Image":
            properties["ImageUri"] = IMAGE
        properties.update({name: "s3://bucket/key" for name in ("CodeUri", "ContentUri") if name in properties})
    result: dict[str, Any] = Translator({}, Parser(), boto_session=Session(region_name=region)).translate(source, {})
    return result


@functools.cache
def _rules() -> Any:
    # cfn-lint needs half a second to load its rules; its command uses the same ones for many files too.
    from cfnlint.config import ConfigMixIn
    from cfnlint.runner import Runner

    return Runner(ConfigMixIn()).rules


def linted(text: str, *regions: str) -> list[str]:
    """What cfn-lint finds in a template for these regions; `sam validate --lint` reports the same."""
    from cfnlint.config import ConfigMixIn
    from cfnlint.decode.decode import decode_str
    from cfnlint.runner import run_template_by_data

    template, errors = decode_str(text)
    return [str(match) for match in errors or run_template_by_data(template, ConfigMixIn(regions=[*regions]), _rules())]


def assert_clean(project: Path, region: str) -> None:
    """Fail unless cfn-lint finds nothing in the template, before and after the transform."""
    assert linted((project / "template.yaml").read_text(encoding="utf-8"), region) == []
    assert linted(json.dumps(transformed(project, region)), region) == []
