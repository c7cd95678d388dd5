"""The files that depend on answers, rendered in cookiecutter's environment, and the rules that they must keep."""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from cookiecutter.utils import create_env_with_context
from hooks.pre_gen_project import JINJA
from jinja2 import Environment, FileSystemLoader, Template
from tests.helpers.support import OPTIONS, ROOT, TEMPLATE, Answers

# Every other file is copied; test_bake.py proves that.
RENDERED = ("README.md", "pyproject.toml", "samconfig.toml", "template.yaml")
PSEUDO_PARAMETERS = {
    f"AWS::{name}" for name in ("AccountId", "NoValue", "Partition", "Region", "StackName", "URLSuffix")
}

_environment: Environment = create_env_with_context({"cookiecutter": OPTIONS})
# Where cookiecutter looks for a file, and for the parts that it includes.
_loader = FileSystemLoader([TEMPLATE, ROOT / "templates"])
_environment.loader = _loader


def render(file: str, answers: Answers) -> str:
    """A file of the project as cookiecutter renders it."""
    return _environment.get_template(file).render(cookiecutter={**OPTIONS, **answers})


def source(file: str) -> str:
    """A file of the project as it is in the template, with the parts that it includes."""
    text, _, _ = _loader.get_source(_environment, file)
    return re.sub(r'\{% include "(.+)" %\}\n', lambda include: source(include[1]), text)


def render_hook(hook: str, answers: Answers) -> str:
    """A hook as cookiecutter renders it before it runs it."""
    return _hook(hook).render(cookiecutter={**OPTIONS, **answers}, _cookiecutter=answers)


@cache
def _hook(hook: str) -> Template:
    return _environment.from_string((ROOT / "hooks" / f"{hook}.py").read_text(encoding="utf-8"))


class _Loader(yaml.CSafeLoader):
    """Reads CloudFormation's tags as `{"Ref": …}`, and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate key: {keys}"
        return super().construct_mapping(node, deep=True)


def _tagged(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {tag: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {tag: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {tag: loader.construct_mapping(node, deep=True)}


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_mapping)
_Loader.add_multi_constructor("!", _tagged)


def load_yaml(text: str) -> dict[str, Any]:
    """Read a template without this project's own parsers; duplicate keys fail."""
    found: dict[str, Any] = yaml.load(text, _Loader)
    return found


def load(file: str, text: str) -> Any:
    """The data in a file: YAML and TOML are parsed, other text is returned as it is."""
    return load_yaml(text) if file.endswith(".yaml") else tomllib.loads(text) if file.endswith(".toml") else text


def references(part: Any) -> Iterator[str]:
    """The logical IDs and pseudo parameters that a part of a template refers to."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "Ref":
                yield value
            elif key == "GetAtt":
                yield value.partition(".")[0]
            elif key == "Sub":
                yield from (name.partition(".")[0] for name in re.findall(r"\$\{([^!][^}]*)\}", value))
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def conditionals(part: Any) -> Iterator[list[Any]]:
    """The condition and the alternatives of each `If` in a part of a template."""
    if isinstance(part, dict):
        if "If" in part:
            yield part["If"]
        part = list(part.values())
    if isinstance(part, list):
        for value in part:
            yield from conditionals(value)


def check_text(file: str, text: str) -> None:
    """Fail if a rendered file has traces of its generation."""
    # CloudFormation's dynamic references have the same braces.
    assert not any(mark in text.replace("{{resolve:", "") for mark in JINJA), f"{file} contains Jinja"
    assert "\n\n\n" not in text, f"{file} has two blank lines in a row"
    assert text.endswith("\n"), f"{file} has no line end at its end"
    assert not text.endswith("\n\n"), f"{file} ends with a blank line"
    assert not re.search(r"[ \t]$", text, re.MULTILINE), f"{file} has blanks at the end of a line"


def check_template(template: dict[str, Any], answers: Answers) -> None:
    """Fail if a template would not stream, or refers to something undefined."""
    resources = template["Resources"]
    assert resources["StreamFunction"]["Type"] == "AWS::Serverless::Function"
    url = resources["StreamUrl"]
    assert url["Type"] == "AWS::Lambda::Url"
    assert url["Properties"]["InvokeMode"] == "RESPONSE_STREAM"
    assert url["Properties"]["AuthType"] == ("AWS_IAM" if answers["url_auth"] == "AWS_IAM" else "NONE")
    assert "FunctionUrlConfig" not in resources["StreamFunction"]["Properties"]
    has_alias = answers["deployment"] == "canary" or answers["cold_start"] == "snapstart"
    assert url["Properties"].get("Qualifier") == ("live" if has_alias else None)
    made_by_sam = {"StreamFunctionAliaslive", "StreamFunction.Alias"} if has_alias else set()
    if "StreamApi" in resources:
        made_by_sam.add("StreamApi.Stage")
    named = {*resources, *made_by_sam, *template.get("Parameters", {}), *PSEUDO_PARAMETERS}
    assert set(references(template)) <= named
    conditional = {of["Condition"] for of in [*resources.values(), *template["Outputs"].values()] if "Condition" in of}
    assert conditional | {name for name, *_ in conditionals(template)} == set(template.get("Conditions", {}))
    for output in template["Outputs"].values():
        assert set(output) - {"Condition"} == {"Description", "Value"}
        assert set(references(output)) & set(resources)
