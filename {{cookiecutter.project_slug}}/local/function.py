"""The function and its URL as `template.yaml` describes them: the file that is deployed configures what runs here."""

from __future__ import annotations

import math
import os
import re
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

#: An account that nobody has.
ACCOUNT = "123456789012"
_FUNCTION = "AWS::Serverless::Function"


class TemplateError(Exception):
    """The template is missing, cannot be read, or holds no function that can be served."""


@dataclass(frozen=True)
class Cors:
    """Cross-origin settings of a function URL.

    https://docs.aws.amazon.com/lambda/latest/api/API_Cors.html

    Attributes:
        allow_origins: Origins, of which `*` stands for any.
        allow_methods: HTTP methods; `*` for any.
        allow_headers: Names of request headers; `*` for any.
        expose_headers: Names of response headers that a page may read.
        allow_credentials: Whether a request may carry cookies.
        max_age: Seconds that a browser may keep the answer.
    """

    allow_origins: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    allow_credentials: bool = False
    max_age: int | None = None


@dataclass(frozen=True)
class Function:
    """One function of a SAM template and its URL, as far as running it needs.

    Attributes:
        name: Logical id.
        code: Folder of the code.
        bootstrap: What starts the runtime: in a built package beside the code, else `runtime/bootstrap` of the project.
        handler: Module and function, such as `app.handler`.
        runtime: Lambda's name of the runtime, such as `python3.13`; of an image, which names none, `python3`.
        timeout: Seconds until Lambda ends an invocation.
        memory: Memory size in MB.
        environment: Variables set for the function.
        concurrency: How many invocations may run at once; None if the template reserves no number.
        has_url: Whether the template gives it a URL.
        streams: Whether the URL's mode is `RESPONSE_STREAM`.
        cors: Cross-origin settings of the URL, if it has any.
        others: Logical ids of the template's other functions.
    """

    name: str
    code: Path
    bootstrap: Path
    handler: str
    runtime: str
    timeout: float
    memory: int
    environment: dict[str, str]
    concurrency: int | None = None
    has_url: bool = True
    streams: bool = True
    cors: Cors | None = None
    others: tuple[str, ...] = ()


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
    functions = [str(key) for key in resources if _mapping(resources, key).get("Type") == _FUNCTION]
    if name not in functions:
        found = ", ".join(functions) or "none"
        raise TemplateError(f"{path} has no {_FUNCTION} called {name} (found: {found}); give --function")
    defaults = _mapping(_mapping(template, "Globals"), "Function")
    own = _mapping(_mapping(resources, name), "Properties")
    parameters = _mapping(template, "Parameters")

    def value(key: str, default: Any) -> Any:
        return _resolve(own.get(key, defaults.get(key, default)), parameters)

    def number(key: str, default: float) -> float:
        try:
            return _finite(value(key, default))
        except (TypeError, ValueError):
            raise TemplateError(f"{key} of {name} in {path} must be a number, not {value(key, default)!r}") from None

    code = (path.parent / str(value("CodeUri", "src"))).resolve()
    if not code.is_dir():
        raise TemplateError(f"CodeUri of {name} in {path} must be a folder, and {code} is none")
    built, vendored = code / "bootstrap", path.resolve().parent / "runtime" / "bootstrap"
    bootstrap = built if built.is_file() else vendored
    if not bootstrap.is_file():
        raise TemplateError(f"there is no streaming runtime for {name}: neither {built} nor {vendored} exists")
    if not os.access(bootstrap, os.X_OK):
        raise TemplateError(f"{bootstrap} cannot be executed, neither here nor on Lambda: chmod +x it")
    variables = {
        **_mapping(_mapping(defaults, "Environment"), "Variables"),
        **_mapping(_mapping(own, "Environment"), "Variables"),
    }
    # What an image is told to run, as Docker's CMD: the handler.
    command = _mapping(own, "ImageConfig").get("Command")
    handler = command[0] if isinstance(command, list) and command else value("Handler", "app.handler")
    inline = {**_mapping(defaults, "FunctionUrlConfig"), **_mapping(own, "FunctionUrlConfig")}
    url = inline or _url_of(name, resources)
    reserved = value("ReservedConcurrentExecutions", None) is not None
    return Function(
        name=name,
        code=code,
        bootstrap=bootstrap,
        handler=str(handler),
        runtime=str(value("Runtime", "python3")),
        timeout=number("Timeout", 3),
        memory=int(number("MemorySize", 128)),
        environment={str(key): _text(_resolve(variable, parameters)) for key, variable in variables.items()},
        concurrency=int(number("ReservedConcurrentExecutions", 0)) if reserved else None,
        has_url=url is not None,
        streams=url is None or _resolve(url.get("InvokeMode"), parameters) == "RESPONSE_STREAM",
        cors=_cors(_mapping(url, "Cors"), parameters),
        others=tuple(other for other in functions if other != name),
    )


def _finite(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(value)
    return number


def region() -> str:
    """The AWS region that the function believes to be in."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def environment(function: Function, runtime_api: str) -> dict[str, str]:
    """The variables of a process of `function`: what Lambda sets, and what the template and the shell add.

    The shell's override the template's, so that one can be tried out; neither overrides what Lambda reserves.
    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime

    Args:
        function: What runs in the sandbox.
        runtime_api: Host and port of the sandbox's Runtime API.
    """
    # A built package may bring its own interpreter, which the bootstrap finds.
    bundled = (function.code / "python" / "bin" / "python3").exists()
    variables = {
        **({} if bundled else {"PYTHON": sys.executable}),
        **function.environment,
        **os.environ,
        "AWS_REGION": region(),
        "AWS_DEFAULT_REGION": region(),
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid.uuid4().hex}",
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
        "LAMBDA_TASK_ROOT": str(function.code),
        "TZ": ":UTC",
        "_HANDLER": function.handler,
    }
    # On Lambda it points at our bootstrap, which is what runs here anyway.
    variables.pop("AWS_LAMBDA_EXEC_WRAPPER", None)
    if function.runtime.startswith("provided"):
        del variables["AWS_EXECUTION_ENV"]  # "not defined for OS-only runtimes"
    return variables


def _mapping(parent: Any, key: str) -> dict[str, Any]:
    """The mapping at `key` of `parent`; an empty one where either is something else."""
    value = parent.get(key) if isinstance(parent, dict) else None
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A scalar as CloudFormation writes it into a variable."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _url_of(name: str, resources: dict[str, Any]) -> dict[str, Any] | None:
    """The properties of the function's URL; None if there is no `AWS::Lambda::Url` for it."""
    for key in resources:
        resource = _mapping(resources, key)
        properties = _mapping(resource, "Properties")
        target = _mapping(properties, "TargetFunctionArn")
        attribute = target.get("GetAtt", target.get("Fn::GetAtt"))
        names = target.get("Ref") == name or attribute in (f"{name}.Arn", [name, "Arn"])
        if resource.get("Type") == "AWS::Lambda::Url" and names:
            return properties
    return None


def _cors(properties: dict[str, Any], parameters: dict[str, Any]) -> Cors | None:
    def texts(key: str) -> tuple[str, ...]:
        found = properties.get(key)
        return tuple(_text(_resolve(text, parameters)) for text in found) if isinstance(found, list) else ()

    if not properties:
        return None
    max_age = _resolve(properties.get("MaxAge"), parameters)
    return Cors(
        allow_origins=texts("AllowOrigins"),
        allow_methods=texts("AllowMethods"),
        allow_headers=texts("AllowHeaders"),
        expose_headers=texts("ExposeHeaders"),
        allow_credentials=_text(_resolve(properties.get("AllowCredentials"), parameters)) == "true",
        max_age=int(max_age) if str(max_age).isdecimal() else None,
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
    known = {"AWS::AccountId": ACCOUNT, "AWS::Partition": "aws", "AWS::Region": region()}
    known |= {key: of["Default"] for key, of in parameters.items() if isinstance(of, dict) and "Default" in of}
    reference, pattern = value.get("Ref"), value.get("Sub", value.get("Fn::Sub"))
    if isinstance(reference, str) and reference in known:
        return known[reference]
    if isinstance(pattern, str):
        return re.sub(r"\$\{([^!}]+)}", lambda found: _text(known.get(found[1], f"<{found[1]}>")), pattern)
    return f"<{'.'.join(map(str, [*value.keys(), *value.values()]))}>"
