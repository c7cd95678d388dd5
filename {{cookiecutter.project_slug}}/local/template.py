"""What `template.yaml` says about the function: the same file that is deployed configures the local URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TemplateError(f"cannot read {path}: {error}") from error
    template = template if isinstance(template, dict) else {}
    resources = template.get("Resources") or {}
    if resources.get(name, {}).get("Type") != "AWS::Serverless::Function":
        functions = [key for key, value in resources.items() if value.get("Type") == "AWS::Serverless::Function"]
        found = ", ".join(functions) or "none"
        raise TemplateError(f"{path} has no AWS::Serverless::Function called {name} (found: {found}); give --function")
    defaults = (template.get("Globals") or {}).get("Function") or {}
    properties = {**defaults, **resources[name].get("Properties", {})}
    parameters = template.get("Parameters") or {}

    def value(key: str, default: Any) -> Any:
        return _resolve(properties.get(key, default), parameters)

    environment = {
        **(defaults.get("Environment") or {}).get("Variables", {}),
        **(properties.get("Environment") or {}).get("Variables", {}),
    }
    code = (path.parent / str(value("CodeUri", "src"))).resolve()
    if not (code / "bootstrap").is_file():
        raise TemplateError(f"{code} has no bootstrap: CodeUri of {name} must be the folder that holds it")
    return Function(
        name=name,
        code=code,
        handler=str(value("Handler", "app.handler")),
        runtime=str(value("Runtime", "python3")),
        timeout=float(value("Timeout", 3)),
        memory=int(value("MemorySize", 128)),
        environment={key: str(_resolve(text, parameters)) for key, text in environment.items()},
    )


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
    if isinstance(reference, str) and "Default" in parameters.get(reference, {}):
        return parameters[reference]["Default"]
    return f"<{'.'.join(map(str, [*value.keys(), *value.values()]))}>"
