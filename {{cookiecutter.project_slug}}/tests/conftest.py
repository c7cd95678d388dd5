"""Shared fixtures: the project's template, and its functions on localhost."""

import asyncio
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.function_url import LogWriter, running
from local.invocation import Invocation
from local.messages import Chunk, ResponseEnd
from local.pool import SandboxPool
from local.template import TemplateLoader, load_function

PROJECT = Path(__file__).parent.parent
STREAM = "RESPONSE_STREAM"
BOOTSTRAP = "/var/task/bootstrap"
# The handler that checks each request before the function's own handler gets it.
CHECKED = "front_door.entry.handler"


def pytest_collectstart() -> None:
    """Run in the code's folder, as Lambda and `make dev` do, so that relative paths lead to the same files."""
    os.chdir(PROJECT / "src")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return what serves a handler, by default that of the template, and return its URL."""
    with ExitStack() as stack:

        def start(
            handler: str = "", code: Path | None = None, function: str = "StreamFunction", **environment: str
        ) -> str:
            served = load_function(PROJECT / "template.yaml", function)
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            if code is not None:
                # The handler comes from the folder of the test.
                monkeypatch.setenv("PYTHONPATH", str(code))
            # A test's stream may take longer than the template's timeout.
            timeout = max(served.timeout, 30)
            # Without the checks of the front door, which have tests of their own.
            own = served.environment.get("FRONT_DOOR_HANDLER", served.handler)
            changed = dataclasses.replace(served, handler=handler or own, timeout=timeout)
            return stack.enter_context(running(changed))

        yield start


@pytest.fixture
def invoke() -> Callable[[str, Any], Any]:
    """Return a function that invokes a function of the template with an event, and returns its result."""

    async def run(name: str, event: Any) -> bytes:
        pool = SandboxPool(load_function(PROJECT / "template.yaml", name), LogWriter(sys.stdout), 1)
        result = b""
        try:
            async for message in await pool.invoke(Invocation(event)):
                result += message.data if isinstance(message, Chunk) else b""
                assert not (isinstance(message, ResponseEnd) and message.error_type), message
        finally:
            await pool.stop()
        return result

    return lambda name, event: json.loads(asyncio.run(run(name, event)))


@pytest.fixture(scope="session")
def template() -> "Template":
    return Template(PROJECT / "template.yaml")


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


class Template:
    """A SAM template in the form that the rules read.

    `!Ref`, `!GetAtt` and `!Sub` are texts such as `${Name.Arn}`, parameters are replaced by their defaults, and
    `Globals` are merged into each function.

    Attributes:
        parameters: By name.
        resources: By logical id.
        functions: Properties by logical id.
        aliases: Logical id of each alias's resource, SAM's own included, by function and alias.
        inline_urls: Properties of the URL that a function has within itself.
        urls: Properties of each `AWS::Lambda::Url`, and the function and the alias that it calls.
    """

    def __init__(self, path: Path) -> None:
        self._source = source = yaml.load(path.read_text(encoding="utf-8"), TemplateLoader)
        self.parameters: dict[str, Any] = source.get("Parameters") or {}
        self._defaults = {name: of["Default"] for name, of in self.parameters.items() if "Default" in of}
        self._mappings = source.get("Mappings") or {}
        whole = _found(_plain(source, self._defaults), self._mappings)
        self.resources: dict[str, Any] = whole["Resources"]
        self.outputs: dict[str, Any] = whole.get("Outputs") or {}
        shared = (whole.get("Globals") or {}).get("Function") or {}
        self.functions = {name: _merged(shared, of) for name, of in self.of("AWS::Serverless::Function").items()}
        self.aliases = {
            (name, of["AutoPublishAlias"]): f"{name}Alias{of['AutoPublishAlias']}"
            for name, of in self.functions.items()
            if "AutoPublishAlias" in of
        }
        for name, of in self.of("AWS::Lambda::Alias").items():
            self.aliases[(self.target(of["FunctionName"]) or ("", ""))[0], of["Name"]] = name
        self.inline_urls = {n: of["FunctionUrlConfig"] for n, of in self.functions.items() if "FunctionUrlConfig" in of}
        self.urls = {
            name: (of, self.target(of.get("TargetFunctionArn"), of.get("Qualifier")))
            for name, of in self.of("AWS::Lambda::Url").items()
        }

    def deployed(self, **parameters: str) -> dict[str, Any]:
        """Return the resources for these parameters, with each condition and choice evaluated."""
        whole = _found(_plain(self._source, {**self._defaults, **parameters}), self._mappings)
        conditions = whole.get("Conditions") or {}
        resources: dict[str, Any] = _chosen(whole["Resources"], conditions)
        return {
            name: of
            for name, of in resources.items()
            if "Condition" not in of or _holds(conditions.get(of["Condition"]), conditions)
        }

    def of(self, kind: str) -> dict[str, Any]:
        """Return the properties of each resource of a type."""
        return {name: of.get("Properties") or {} for name, of in self.resources.items() if of.get("Type") == kind}

    def target(self, value: Any, qualifier: Any = None) -> tuple[str, str] | None:
        """Return the function and the alias that `value` names; None unless it is a function of the template."""
        if isinstance(qualifier, str) and qualifier.startswith("${"):  # a reference to an alias's resource
            qualifier = next((alias for (_, alias), name in self.aliases.items() if name in qualifier), qualifier)
        for name, of in self.functions.items():
            own = str(of.get("FunctionName", name))
            if parts := re.fullmatch(rf"(\$.{name}(\.Arn)?}}|{re.escape(own)})(:([\w$-]+))?", str(value)):
                return name, str(qualifier or parts[4] or "")
        for (name, alias), resource in self.aliases.items():
            if re.fullmatch(rf"\$.({resource}(\.\w+)?|{name}\.Alias)}}", str(value)):
                return name, alias
        return None

    def code(self, name: str) -> Path | None:
        """Return the folder of a function's code; None unless the project has it and it is Python."""
        of, metadata = self.functions[name], self.resources[name].get("Metadata") or {}
        if of.get("PackageType") == "Image":
            code = (metadata.get("DockerBuildArgs") or {}).get("CODE", "src" if name == "StreamFunction" else None)
        else:
            python = str(of.get("Runtime")).startswith("python") or "PythonVersion" in metadata
            code = of.get("CodeUri") if python else None
        return PROJECT / str(code) if code is not None and (PROJECT / str(code)).is_dir() else None

    def streaming(self) -> dict[str, str]:
        """Return the functions that something streams from, and the name of that: a URL, or an event of an API."""
        found = {name: f"event {key} of {name}" for name, key, mode in self._api_events() if mode == STREAM}
        found |= {name: name for name, of in self.inline_urls.items() if of.get("InvokeMode") == STREAM}
        called = {
            target[0]: name for name, (of, target) in self.urls.items() if target and of.get("InvokeMode") == STREAM
        }
        return {**found, **called}

    def has_runtime(self, name: str) -> bool:
        """Return whether a function is to run on the streaming runtime of its package."""
        of = self.functions[name]
        bundled = "PythonVersion" in (self.resources[name].get("Metadata") or {})
        return name == "StreamFunction" or bundled or variables(of).get("AWS_LAMBDA_EXEC_WRAPPER") == BOOTSTRAP

    def serves_rest_api(self, name: str) -> bool:
        """Return whether a function is to stream through a REST API."""
        modes = [mode for function, _, mode in self._api_events() if function == name]
        return bool(modes) and (STREAM in modes or (self.has_runtime(name) and name not in self.streaming()))

    def _api_events(self) -> Iterator[tuple[str, str, Any]]:
        for name, of in self.functions.items():
            for key, event in (of.get("Events") or {}).items():
                if event["Type"] in ("Api", "HttpApi"):
                    yield name, key, (event.get("Properties") or {}).get("ResponseTransferMode")

    def unknown(self, value: Any) -> bool:
        """Return whether only AWS knows the value: an import, a choice, a parameter without a default."""
        names = set(re.findall(r"\$\{([\w:]+)", str(value)))
        known = {*self.resources, *self.aliases.values()}
        return isinstance(value, dict) or (bool(names) and not known & names)

    def exists(self, name: str) -> bool:
        """Return whether the template has a resource or parameter of that name, or SAM creates one."""
        own = {*self.resources, *self.parameters, *self.aliases.values(), *(f"{of}Url" for of in self.inline_urls)}
        sams = [key for key, of in self.resources.items() if of["Type"].startswith("AWS::Serverless::")]
        made = any(re.fullmatch(rf"{key}(?!Alias|Url)[A-Z]\w*", name) for key in sams)
        return name in own or made or name.startswith(("Serverless", "CodeDeploy"))

    def granted(self, url: str, principal: str, source: str = "") -> set[str]:
        """Return the actions that a principal has on a URL; lambda:InvokeFunction counts only if limited to the URL."""
        return {
            of["Action"]
            for of in self.of("AWS::Lambda::Permission").values()
            if (of.get("Principal"), self.target(of.get("FunctionName"))) == (principal, self.urls[url][1])
            and source in str(of.get("SourceArn"))
            and (of["Action"] != "lambda:InvokeFunction" or true(of.get("InvokedViaFunctionUrl")))
        }

    def metrics(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """Yield place, namespace, name and dimensions of each metric that an alarm or a dashboard reads."""
        for name, resource in self.resources.items():
            for of in mappings(resource):
                if isinstance(of.get("Namespace"), str) and isinstance(of.get("MetricName"), str):
                    dimensions = {item["Name"]: item["Value"] for item in of.get("Dimensions") or []}
                    yield name, of["Namespace"], of["MetricName"], dimensions
        for name, of in self.of("AWS::CloudWatch::Dashboard").items():
            # A value without quotes is a number.
            body = of["DashboardBody"] if isinstance(of["DashboardBody"], str) else "{}"
            try:
                widgets = json.loads(re.sub(r'(?<!")\$\{[\w.:]+}(?!")', "0", body)).get("widgets", [])
            except ValueError as error:
                raise AssertionError(f"{name}: DashboardBody is not JSON; correct it: {error}") from None
            for widget in widgets:
                last: list[str] = []
                for metric in widget.get("properties", {}).get("metrics", []):
                    texts = [text for text in metric if isinstance(text, str)]
                    if texts and texts[0] != "...":
                        last = [last[at] if text == "." else text for at, text in enumerate(texts)]
                        yield name, last[0], last[1], dict(zip(last[2::2], last[3::2], strict=True))


def _holds(condition: Any, conditions: dict[str, Any]) -> bool:
    if not isinstance(condition, dict) or len(condition) != 1:
        return False
    [(kind, values)] = condition.items()
    if kind == "Condition":
        return _holds(conditions.get(values), conditions)
    if kind == "Equals":
        return bool(values[0] == values[1])
    each = [_holds(of, conditions) for of in values]
    return not each[0] if kind == "Not" else all(each) if kind == "And" else any(each)


def _chosen(value: Any, conditions: dict[str, Any]) -> Any:
    """Return `value` with the chosen branch of each `If`, and without what is `AWS::NoValue`."""
    if isinstance(value, dict) and value.keys() == {"If"}:
        name, then, otherwise = value["If"]
        return _chosen(then if _holds(conditions.get(name), conditions) else otherwise, conditions)
    if isinstance(value, dict):
        chosen = {key: _chosen(of, conditions) for key, of in value.items()}
        return {key: of for key, of in chosen.items() if of != "${AWS::NoValue}"}
    return [_chosen(of, conditions) for of in value] if isinstance(value, list) else value


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in `value` at any depth."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(item)


def ref(name: str) -> str:
    """Return a reference to a resource or its attribute in the form that `Template` uses."""
    return "${" + name + "}"


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def true(value: Any) -> bool:
    return str(value).lower() == "true"


def number(value: Any, default: float) -> float:
    """Return a number as CloudFormation reads it, or the default where only AWS knows it."""
    return float(value) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", str(value)) else default


def variables(function: dict[str, Any]) -> dict[str, Any]:
    return (function.get("Environment") or {}).get("Variables") or {}


def handler_of(function: dict[str, Any]) -> str:
    """Return the handler that Lambda calls: of a package, or of an image."""
    command = listed((function.get("ImageConfig") or {}).get("Command"))
    return str(command[0] if command else function.get("Handler"))


def _plain(value: Any, defaults: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_plain(item, defaults) for item in value]
    if not isinstance(value, dict):
        return value
    found = {str(key).removeprefix("Fn::"): _plain(item, defaults) for key, item in value.items()}
    if len(found) != 1 or (kind := next(iter(found))) not in ("Ref", "GetAtt", "Sub"):
        return found
    if kind == "Ref" and found[kind] in defaults:
        return defaults[found[kind]]
    if kind == "Sub":
        text = found[kind][0] if isinstance(found[kind], list) else found[kind]
        return re.sub(r"\$\{(\w+)}", lambda name: str(defaults.get(name[1], name[0])), text)
    return ref(".".join(found[kind]) if isinstance(found[kind], list) else found[kind])


def _found(value: Any, maps: dict[str, Any]) -> Any:
    """Return `value` with what each `FindInMap` finds; one that only AWS can resolve stays."""
    if isinstance(value, list):
        return [_found(item, maps) for item in value]
    if not isinstance(value, dict):
        return value
    keys = value.get("FindInMap") if len(value) == 1 else None
    if isinstance(keys, list) and len(keys) == 3 and all(isinstance(key, str) for key in keys):
        return maps.get(keys[0], {}).get(keys[1], {}).get(keys[2], value)
    return {key: _found(item, maps) for key, item in value.items()}


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: _merged(below.get(key), above.get(key)) for key in (*below, *above)}
    return below if above is None else above
