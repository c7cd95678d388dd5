"""What `template.yaml` says about the function: the same file that is deployed configures the local URL."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_FUNCTION = "AWS::Serverless::Function"


class TemplateError(Exception):
    """The template is missing, cannot be read, or holds no function that can be served."""


@dataclass(frozen=True)
class Function:
    """One function of a SAM template, as far as running it needs.

    Attributes:
        name: Logical id.
        code: Folder of the code, with `bootstrap` in it.
        handler: Module and function, such as `app.handler`.
        runtime: Lambda's name of the runtime, such as `python3.13`.
        timeout: Seconds until Lambda ends an invocation.
        memory: Memory size in MB.
        environment: Variables set for the function.
    """

    name: str
    code: Path
    handler: str
    runtime: str
    timeout: float
    memory: int
    environment: dict[str, str]


def load_function(path: Path, name: str) -> Function:
    """Reads the function with logical id `name` out of the template at `path`.

    Raises:
        TemplateError: The message says what is wrong and what to do.
    """
    try:
        template = yaml.load(path.read_text(encoding="utf-8"), TemplateLoader)
    except FileNotFoundError:
        raise TemplateError(f"no template at {path}: run this in the project's folder, or give --template") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date that is none
        raise TemplateError(f"cannot read {path}: {error}") from error
    resources = _mapping(template, "Resources")
    if _mapping(resources, name).get("Type") != _FUNCTION:
        functions = [key for key in resources if _mapping(resources, key).get("Type") == _FUNCTION]
        found = ", ".join(map(str, functions)) or "none"
        raise TemplateError(f"{path} has no {_FUNCTION} called {name} (found: {found}); give --function")
    defaults = _mapping(_mapping(template, "Globals"), "Function")
    own = _mapping(_mapping(resources, name), "Properties")
    parameters = _mapping(template, "Parameters")

    def value(key: str, default: Any) -> Any:
        return _resolve(own.get(key, defaults.get(key, default)), parameters)

    def number(key: str, default: float) -> float:
        try:
            return float(value(key, default))
        except (TypeError, ValueError):
            raise TemplateError(f"{key} of {name} in {path} must be a number, not {value(key, default)!r}") from None

    code = (path.parent / str(value("CodeUri", "src"))).resolve()
    bootstrap = code / "bootstrap"
    if not bootstrap.is_file():
        raise TemplateError(f"{code} has no bootstrap: CodeUri of {name} must be the folder that holds it")
    if not os.access(bootstrap, os.X_OK):
        raise TemplateError(f"{bootstrap} cannot be executed, neither here nor on Lambda: chmod +x it")
    variables = {
        **_mapping(_mapping(defaults, "Environment"), "Variables"),
        **_mapping(_mapping(own, "Environment"), "Variables"),
    }
    return Function(
        name=name,
        code=code,
        handler=str(value("Handler", "app.handler")),
        runtime=str(value("Runtime", "python3")),
        timeout=number("Timeout", 3),
        memory=int(number("MemorySize", 128)),
        environment={str(key): _text(_resolve(variable, parameters)) for key, variable in variables.items()},
    )


def _mapping(parent: Any, key: str) -> dict[str, Any]:
    """The mapping at `key` of `parent`; an empty one where either is something else."""
    value = parent.get(key) if isinstance(parent, dict) else None
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A scalar as CloudFormation writes it into a variable."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Intrinsic(dict[str, Any]):
    """An intrinsic function of CloudFormation in its short form, such as `!Ref Stage`."""


class TemplateLoader(yaml.SafeLoader):
    """Reads YAML with CloudFormation's tags."""


def _intrinsic(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> _Intrinsic:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return _Intrinsic({tag: value})


TemplateLoader.add_multi_constructor("!", _intrinsic)


def _resolve(value: Any, parameters: dict[str, Any]) -> Any:
    """A parameter's default for a reference to it; what only AWS knows becomes a text that says so."""
    if not isinstance(value, dict):
        return value
    reference = value.get("Ref")
    if isinstance(reference, str) and "Default" in _mapping(parameters, reference):
        return parameters[reference]["Default"]
    return f"<{'.'.join(map(str, [*value.keys(), *value.values()]))}>"
