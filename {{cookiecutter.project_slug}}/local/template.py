"""The functions and their URLs as `template.yaml` describes them: one file configures AWS and localhost."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from .aws import ACCOUNT, AwsConfig, find_aws_config
from .aws_limits import AWS_LIMITS

_FUNCTION = "AWS::Serverless::Function"
#: What a developer sets for this machine: `Orders=orders-dev` for `!Ref Orders`, `Orders.Arn=…` for `!GetAtt
#: Orders.Arn`, and `TABLE=…` for a variable of a function.
OVERRIDES = Path(__file__).with_name("overrides.env")


#: The variable of a function that checks whether its requests came through CloudFront.
ORIGIN_SECRET = "ORIGIN_SECRET"
# In the place of the secret that AWS generates. The URL adds it to each request, as CloudFront does.
_LOCAL_SECRET = secrets.token_urlsafe(32)


class TemplateError(Exception):
    """The template cannot be read, or a function in it cannot be served."""


@dataclass(frozen=True)
class Cors:
    """Cross-origin settings of a function URL.

    https://docs.aws.amazon.com/lambda/latest/api/API_Cors.html

    Attributes:
        allow_origins: Allowed origins; `*` allows any.
        allow_methods: Allowed HTTP methods; `*` allows any.
        allow_headers: Allowed request headers; `*` allows any.
        expose_headers: Response headers that a page may read.
        allow_credentials: Whether a request may carry cookies.
        max_age: How many seconds a browser may cache the result of a preflight request.
    """

    allow_origins: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    allow_credentials: bool = False
    max_age: int | None = None


@dataclass(frozen=True)
class BuildSettings:
    """What the template says about the package of a function.

    Attributes:
        code: Its `CodeUri`.
        runtime: Lambda's name of the runtime.
        release: The release of Python to put into the package: `PythonVersion` of its `Metadata`, or empty.
        architecture: The architecture; Lambda's default is `x86_64`.
        has_wrapper: Whether `AWS_LAMBDA_EXEC_WRAPPER` starts the bootstrap of the package.
        aws_services: `AwsServices` of its `Metadata`, or empty.
    """

    code: str
    runtime: str
    release: str
    architecture: str
    has_wrapper: bool
    aws_services: str


@dataclass(frozen=True)
class Function:
    """One function of a SAM template and its URL: what is needed to run it.

    Attributes:
        name: Logical ID.
        code: Folder of the code.
        bootstrap: What starts the runtime: `bootstrap` beside the code of a built package, else the project's
            `runtime/bootstrap`.
        handler: Module and function, such as `app.handler`.
        runtime: Lambda's name of the runtime, such as `python3.13`; `python3` for an image, which names none.
        timeout: Seconds after which Lambda ends an invocation.
        memory: Memory size in MB.
        environment: Environment variables of the function.
        concurrency: Reserved concurrency; None if the template reserves none.
        has_url: Whether the template defines a URL for it.
        routes: Method and path of each event of a REST API, for a function without a URL.
        streams: Whether the URL's invoke mode, or the transfer mode of the API's events, is `RESPONSE_STREAM`, and the
            function has the streaming runtime.
        plain: Whether it has a URL or an API, and not the streaming runtime.
        lacks_runtime: Whether it would stream if it had the streaming runtime.
        snap_start: Whether Lambda starts its published versions from a snapshot.
        cors: Cross-origin settings of the URL, if it has any.
        aws: The region and the profile to use.
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
    routes: tuple[tuple[str, str], ...] = ()
    streams: bool = True
    plain: bool = False
    lacks_runtime: bool = False
    snap_start: bool = False
    cors: Cors | None = None
    aws: AwsConfig = field(default_factory=AwsConfig)

    @property
    def has_runtime(self) -> bool:
        """Whether the streaming runtime runs it on Lambda, and not Lambda's own Python client."""
        return not self.runtime.startswith("python3.") or "AWS_LAMBDA_EXEC_WRAPPER" in self.environment


class Template:
    """A SAM template.

    Attributes:
        path: Where it was read from.
        names: The logical IDs of its functions, in the template's order.
    """

    def __init__(self, path: Path, overrides: Path = OVERRIDES) -> None:
        """Read the template at `path`, and in `overrides` what a developer sets for references and variables.

        Raises:
            TemplateError: The message says what is wrong and what to do.
        """
        self.path = path
        try:
            self._source = yaml.load(path.read_text(encoding="utf-8"), TemplateLoader)
        except FileNotFoundError:
            message = f"{path} does not exist. Run this in the project's folder, or name the template with --template"
            raise TemplateError(message) from None
        except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or an impossible date
            raise TemplateError(f"cannot read {path}: {error}") from error
        try:
            self._aws = find_aws_config(path.resolve().parent)
        except (OSError, ValueError) as error:
            raise TemplateError(f"cannot read samconfig.toml beside {path}: {error}") from error
        self._overrides = _read_overrides(overrides)
        self._resources = _mapping(self._source, "Resources")
        self._parameters = _mapping(self._source, "Parameters")
        self._mappings = _mapping(self._source, "Mappings")
        self._conditions = _mapping(self._source, "Conditions")
        self._defaults = _mapping(_mapping(self._source, "Globals"), "Function")
        types = {key: _mapping(self._resources, key).get("Type") for key in self._resources}
        self.names = tuple(str(key) for key, type_ in types.items() if type_ == _FUNCTION)

    def function(self, name: str) -> Function:
        """Return the function with the logical ID `name`.

        Raises:
            TemplateError: The message says what is wrong and what to do.
        """
        own = self._properties(name)
        code, bootstrap = self._find_code(name, own)
        # The command of an image (CMD in Docker's terms) is the handler.
        command = _mapping(own, "ImageConfig").get("Command")
        handler = command[0] if isinstance(command, list) and command else self._value(own, "Handler", "app.handler")
        inline = {**_mapping(self._defaults, "FunctionUrlConfig"), **_mapping(own, "FunctionUrlConfig")}
        url = inline or self._find_url(name)
        api_events = self._api_events(own) if url is None else []
        modes = [url.get("InvokeMode")] if url else [event.get("ResponseTransferMode") for event in api_events]
        snap_start = {**_mapping(self._defaults, "SnapStart"), **_mapping(own, "SnapStart")}
        reserved = self._value(own, "ReservedConcurrentExecutions", None) is not None
        function = Function(
            name=name,
            code=code,
            bootstrap=bootstrap,
            handler=str(handler),
            runtime=str(self._value(own, "Runtime", "python3")),
            timeout=self._number(name, own, "Timeout", AWS_LIMITS["timeout"]["default"]),
            memory=int(self._number(name, own, "MemorySize", 128)),
            environment=self._variables(own),
            concurrency=int(self._number(name, own, "ReservedConcurrentExecutions", 0)) if reserved else None,
            has_url=url is not None,
            routes=tuple((str(event.get("Method", "ANY")), str(event.get("Path", "/"))) for event in api_events),
            streams=not modes or "RESPONSE_STREAM" in map(self._resolve, modes),
            snap_start=self._resolve(snap_start.get("ApplyOn")) == "PublishedVersions",
            cors=self._cors(_mapping(url, "Cors")),
            aws=self._aws,
        )
        # On Lambda its own Python client, which cannot stream, would run a function without the runtime.
        if function.has_runtime or not modes:
            return function
        return replace(function, streams=False, plain=True, lacks_runtime=function.streams)

    def build_settings(self, name: str) -> BuildSettings:
        """Return what the template says about the package of the function with the logical ID `name`.

        Raises:
            TemplateError: The template has no such function.
        """
        own = self._properties(name)
        metadata = _mapping(_mapping(self._resources, name), "Metadata")
        architectures = own.get("Architectures", self._defaults.get("Architectures")) or ["x86_64"]
        return BuildSettings(
            code=str(self._value(own, "CodeUri", "src")),
            runtime=str(self._value(own, "Runtime", "")),
            release=_text(metadata.get("PythonVersion", "")),
            architecture=str(self._resolve(architectures[0] if isinstance(architectures, list) else architectures)),
            has_wrapper=self._variables(own).get("AWS_LAMBDA_EXEC_WRAPPER") == "/var/task/bootstrap",
            aws_services=_text(metadata.get("AwsServices", "")),
        )

    def _properties(self, name: str) -> dict[str, Any]:
        if name not in self.names:
            found = ", ".join(self.names) or "none"
            message = f"{self.path} has no {_FUNCTION} named '{name}' (found: {found}). Choose one with --function"
            raise TemplateError(message)
        return _mapping(_mapping(self._resources, name), "Properties")

    def _variables(self, own: dict[str, Any]) -> dict[str, str]:
        variables = {
            **_mapping(_mapping(self._defaults, "Environment"), "Variables"),
            **_mapping(_mapping(own, "Environment"), "Variables"),
        }
        resolved = {key: _text(self._resolve(value)) for key, value in self._present(variables)}
        if "resolve:" in resolved.get(ORIGIN_SECRET, ""):
            resolved[ORIGIN_SECRET] = _LOCAL_SECRET
        return {key: self._overrides.get(key, value) for key, value in resolved.items()}

    def placeholders(self, name: str) -> dict[str, list[str]]:
        """Return the references that only AWS can resolve, by the variable of the function `name` that has them."""
        own = self._properties(name)
        found = {}
        for defaults in (self._defaults, own):
            for key, value in self._present(_mapping(_mapping(defaults, "Environment"), "Variables")):
                missing: list[str] = []
                self._resolve(value, missing)
                found[key] = missing
        given = os.environ.keys() | self._overrides.keys() | {ORIGIN_SECRET}
        return {key: missing for key, missing in found.items() if missing and key not in given}

    def _value(self, own: dict[str, Any], key: str, default: Any) -> Any:
        return self._resolve(own.get(key, self._defaults.get(key, default)))

    def _number(self, name: str, own: dict[str, Any], key: str, default: float) -> float:
        value = self._value(own, key, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise TemplateError(f"{key} of {name} in {self.path} must be a number, got {value!r}")
        return number

    def _find_code(self, name: str, own: dict[str, Any]) -> tuple[Path, Path]:
        """Return the folder of a function's code and its bootstrap."""
        # An image contains the folder that its Dockerfile copies.
        image = _mapping(_mapping(_mapping(self._resources, name), "Metadata"), "DockerBuildArgs").get("CODE", "src")
        code = (self.path.parent / str(self._value(own, "CodeUri", image))).resolve()
        if not code.is_dir():
            raise TemplateError(f"CodeUri of {name} in {self.path} must be a folder, got {code}")
        folder = self.path.resolve().parent
        # The package of a function that does not stream has no runtime, so the project's own runs it here.
        root = folder.parent.parent if folder.parts[-2:] == (".aws-sam", "build") else folder
        built, vendored = code / "bootstrap", root / "runtime" / "bootstrap"
        # On Lambda the last layer with a file of this name would win.
        in_layers = [layer / "bootstrap" for layer in reversed(self._find_layers(own))]
        bootstrap = next((path for path in (built, *in_layers, vendored) if path.is_file()), vendored)
        if not bootstrap.is_file():
            raise TemplateError(f"{name} has no streaming runtime: neither {built} nor {vendored} exists")
        if not os.access(bootstrap, os.X_OK):
            raise TemplateError(f"{bootstrap} is not executable, and would not be on Lambda. Run: chmod +x {bootstrap}")
        return code, bootstrap

    def _find_layers(self, own: dict[str, Any]) -> list[Path]:
        """Return the folders of those layers of a function that this template defines, in their order."""
        layers = [layer for of in (self._defaults, own) if isinstance(of.get("Layers"), list) for layer in of["Layers"]]
        names = [layer["Ref"] for layer in layers if isinstance(layer, dict) and isinstance(layer.get("Ref"), str)]
        uris = [_mapping(_mapping(self._resources, name), "Properties").get("ContentUri") for name in names]
        return [self.path.parent / uri for uri in uris if isinstance(uri, str)]

    def _find_url(self, name: str) -> dict[str, Any] | None:
        """Return the properties of the function's URL, or None if it has no `AWS::Lambda::Url`."""
        for key in self._resources:
            resource = _mapping(self._resources, key)
            properties = _mapping(resource, "Properties")
            target = _mapping(properties, "TargetFunctionArn")
            reference, attribute = target.get("Ref"), target.get("GetAtt", target.get("Fn::GetAtt"))
            # SAM's names of the alias that `AutoPublishAlias` makes.
            alias = re.fullmatch(rf"{re.escape(name)}(\.Alias|Alias\w+)", str(reference)) is not None
            matches = reference == name or alias or attribute in (f"{name}.Arn", [name, "Arn"])
            if resource.get("Type") == "AWS::Lambda::Url" and matches:
                return properties
        return None

    def _api_events(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the properties of a function's events of a REST API."""
        events = _mapping(own, "Events")
        found = [(_mapping(events, key).get("Type"), _mapping(_mapping(events, key), "Properties")) for key in events]
        return [properties for type_, properties in found if type_ == "Api"]

    def _cors(self, properties: dict[str, Any]) -> Cors | None:
        def texts(key: str) -> tuple[str, ...]:
            found = properties.get(key)
            return tuple(_text(self._resolve(text)) for text in found) if isinstance(found, list) else ()

        if not properties:
            return None
        max_age = self._resolve(properties.get("MaxAge"))
        return Cors(
            allow_origins=texts("AllowOrigins"),
            allow_methods=texts("AllowMethods"),
            allow_headers=texts("AllowHeaders"),
            expose_headers=texts("ExposeHeaders"),
            allow_credentials=_text(self._resolve(properties.get("AllowCredentials"))) == "true",
            max_age=int(max_age) if str(max_age).isdecimal() else None,
        )

    def _resolve(self, value: Any, missing: list[str] | None = None) -> Any:
        """Replace references by what the developer set, by defaults, or by a text that names what only AWS knows.

        Args:
            value: Any value of the template.
            missing: What to append the references to that stay placeholders.
        """
        value = self._choose(value)
        if not isinstance(value, dict):
            return value
        missing = [] if missing is None else missing
        reference, pattern = value.get("Ref"), value.get("Sub", value.get("Fn::Sub"))
        attribute = value.get("GetAtt", value.get("Fn::GetAtt"))
        if isinstance(attribute, list):
            attribute = ".".join(map(str, attribute))
        for name in (reference, attribute):
            if isinstance(name, str) and (found := self._given(name)) is not None:
                return found
        keys = value.get("FindInMap", value.get("Fn::FindInMap"))
        if isinstance(keys, list) and len(keys) == 3:
            first, second, third = (_text(self._resolve(key)) for key in keys)
            found = _mapping(_mapping(self._mappings, first), second).get(third)
            if found is not None:
                return found
        if isinstance(pattern, str):
            return re.sub(r"\$\{([^!}]+)}", lambda found: self._substitute(found[1], missing), pattern)
        missing.append(str(reference or attribute or next(iter(value), "")))
        return f"<{'.'.join(map(str, [*value.keys(), *value.values()]))}>"

    def _present(self, variables: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield names and values, without those for which an `If` chooses `AWS::NoValue`."""
        for name, value in variables.items():
            chosen = self._choose(value)
            if not (isinstance(chosen, dict) and chosen.get("Ref") == "AWS::NoValue"):
                yield str(name), chosen

    def _choose(self, value: Any) -> Any:
        """Return the branch of an `If` whose condition the values of parameters decide; any other value as it is."""
        branches = value.get("If", value.get("Fn::If")) if isinstance(value, dict) else None
        if not isinstance(branches, list) or len(branches) != 3:
            return value
        holds = self._holds({"Condition": branches[0]})
        return value if holds is None else self._choose(branches[1 if holds else 2])

    def _holds(self, condition: Any) -> bool | None:
        """Return whether a condition holds; None if only AWS knows."""
        if not isinstance(condition, dict) or len(condition) != 1:
            return None
        [(kind, of)] = condition.items()
        if kind == "Condition":
            return self._holds(self._conditions.get(of))
        if kind.removeprefix("Fn::") == "Equals" and isinstance(of, list):
            missing: list[str] = []
            values = [_text(self._resolve(value, missing)) for value in of]
            return None if missing else values[0] == values[-1]
        held = [self._holds(value) for value in of] if isinstance(of, list) else [None]
        if None in held:
            return None
        operators = {"Not": lambda: not held[0], "And": lambda: all(held), "Or": lambda: any(held)}
        operator = operators.get(kind.removeprefix("Fn::"))
        return operator() if operator else None

    def _substitute(self, name: str, missing: list[str]) -> str:
        if (given := self._given(name)) is not None:
            return _text(given)
        missing.append(name)
        return f"<{name}>"

    def _given(self, name: str) -> Any:
        """Return what a reference stands for on this machine; None if only AWS knows."""
        if name in self._overrides:
            return self._overrides[name]
        known = {"AWS::AccountId": ACCOUNT, "AWS::Partition": "aws", "AWS::Region": self._aws.region}
        parameters = {key: of for key, of in self._parameters.items() if isinstance(of, dict)}
        known |= {key: of["Default"] for key, of in parameters.items() if "Default" in of}
        return known.get(name, os.environ.get(name.replace(".", "_")))


def _read_overrides(path: Path) -> dict[str, str]:
    """Return the lines `name=value` of a file; none if it does not exist.

    Raises:
        TemplateError: It cannot be read, or has another line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TemplateError(f"cannot read {path}: {error}") from error
    found = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            if not equals or not name.strip():
                raise TemplateError(
                    f"{path}, line {number}: must be name=value, such as Orders=orders-dev, got {line!r}"
                )
            found[name.strip()] = value.strip()
    return found


def load_functions(path: Path) -> dict[str, Function]:
    """Read every function of the template at `path`, by logical ID.

    Raises:
        TemplateError: The message says what is wrong and what to do.
    """
    template = Template(path)
    return {name: template.function(name) for name in template.names}


def load_function(path: Path, name: str) -> Function:
    """Read the function with the logical ID `name` from the template at `path`.

    Raises:
        TemplateError: The message says what is wrong and what to do.
    """
    return Template(path).function(name)


def _mapping(parent: Any, key: str) -> dict[str, Any]:
    """Return the mapping at `key` of `parent`, or an empty one where either is not a mapping."""
    value = parent.get(key) if isinstance(parent, dict) else None
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """Return a scalar as CloudFormation writes it into an environment variable."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Intrinsic(dict[str, Any]):
    """An intrinsic function of CloudFormation in its short form, such as `!Ref Stage`."""


class TemplateLoader(yaml.SafeLoader):
    """Loads YAML with CloudFormation's tags."""


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
