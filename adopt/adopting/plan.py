"""What a function of a SAM template needs in order to stream, and why some functions cannot get it this way."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .document import Document, entry, is_plain, to_value
from .edits import CHAINED, Editor
from .errors import Refusal
from .rendering import Compact, Intrinsic

FUNCTION = "AWS::Serverless::Function"
LAYER = "AWS::Serverless::LayerVersion"
URL = "AWS::Lambda::Url"
PERMISSION = "AWS::Lambda::Permission"
NESTED = {"AWS::Serverless::Application": "Location", "AWS::CloudFormation::Stack": "TemplateURL"}

WRAPPER = "AWS_LAMBDA_EXEC_WRAPPER"
BOOTSTRAP = "/opt/bootstrap"
IN_PACKAGE = "/var/task/bootstrap"
BUFFERED_CALLERS = "STREAMING_RUNTIME_BUFFERED_CALLERS"
STREAM = "RESPONSE_STREAM"
# What AWS allows, as in a project.
_LIMITS_FILE = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}" / "local" / "aws_limits.toml"
AWS_LIMITS = tomllib.loads(_LIMITS_FILE.read_text(encoding="utf-8"))
# The bootstrap uses options of Python 3.11.
OLDEST_PYTHON = (3, 11)
MOST_LAYERS = AWS_LIMITS["layers"]["most"]
# Seconds. A stream that takes longer is common.
SHORT_TIMEOUT = 30

_CHAINED_NOTE = (
    "The wrapper {wrapper} is now started by the runtime, which finds it in " + CHAINED + ". It has to end by executing"
    " the command that it was given, as AWS asks of wrappers."
)


class Template:
    """The functions of a template, with what `Globals` adds to each."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.whole: dict[str, Any] = to_value(document.root)
        self.resources = _mapping(self.whole, "Resources")
        self.globals = _mapping(_mapping(self.whole, "Globals"), "Function")
        self._parameters = _mapping(self.whole, "Parameters")

    @property
    def functions(self) -> list[str]:
        """The logical IDs of all functions."""
        return [name for name in self.resources if _mapping(self.resources, name).get("Type") == FUNCTION]

    def own(self, function: str) -> dict[str, Any]:
        """Return the function's properties, without those of `Globals`."""
        return _mapping(_mapping(self.resources, function), "Properties")

    def property(self, function: str, name: str) -> Any:
        """Return a property of a function or of `Globals`; a parameter's default for a reference to it."""
        return self.resolve(self.own(function).get(name, self.globals.get(name)))

    def resolve(self, value: Any) -> Any:
        """Return a parameter's default for a reference to it, else the value as it is."""
        reference = value.get("Ref") if isinstance(value, dict) else None
        default = _mapping(self._parameters, reference).get("Default") if isinstance(reference, str) else None
        return value if default is None else default

    def variable(self, function: str, name: str) -> Any:
        """Return an environment variable of a function or of `Globals`."""
        own = _mapping(_mapping(self.own(function), "Environment"), "Variables")
        return own.get(name, _mapping(_mapping(self.globals, "Environment"), "Variables").get(name))

    def layers(self, function: str) -> list[Any]:
        """Return the layers of a function, those of `Globals` first, as far as they are lists."""
        lists = self.globals.get("Layers"), self.own(function).get("Layers")
        return [layer for layers in lists if isinstance(layers, list) for layer in layers]

    def url(self, function: str) -> tuple[str, dict[str, Any]] | None:
        """Return the logical ID and the properties of a function's `AWS::Lambda::Url`."""
        targets = (
            {"Ref": function},
            {"Ref": f"{function}.Alias"},
            {"Fn::GetAtt": [function, "Arn"]},
            {"Fn::Sub": f"${{{function}}}"},
            {"Fn::Sub": f"${{{function}.Arn}}"},
        )
        for name in self.resources:
            properties = _mapping(_mapping(self.resources, name), "Properties")
            target = properties.get("TargetFunctionArn")
            if isinstance(target, dict) and isinstance(target.get("Fn::GetAtt"), str):
                target = {"Fn::GetAtt": target["Fn::GetAtt"].split(".", 1)}
            if _mapping(self.resources, name).get("Type") == URL and target in targets:
                return name, properties
        return None

    def runtime_layer(self, folder: str) -> str | None:
        """Return the logical ID of the layer with the content of `folder`."""
        for name in self.resources:
            uri = _mapping(_mapping(self.resources, name), "Properties").get("ContentUri")
            same = isinstance(uri, str) and uri.removeprefix("./").rstrip("/") == folder
            if same and _mapping(self.resources, name).get("Type") == LAYER:
                return name
        return None


@dataclass(frozen=True)
class Wish:
    """What a user asks for.

    Attributes:
        function: Logical ID of the function; empty if the template has only one.
        url_auth: `AWS_IAM` or `NONE`.
        layer_folder: Folder of the runtime, from the template's own on.
        runtime_source: Folder of this checkout with the runtime.
    """

    function: str
    url_auth: str
    layer_folder: str
    runtime_source: str


@dataclass
class Plan:
    """What is to be added.

    Attributes:
        function: Logical ID of the function.
        editor: Holds the insertions.
        shared: Keys of insertions that are not the function's alone.
        notes: What a user should know, a message each.
    """

    function: str
    editor: Editor
    shared: set[tuple[str, ...]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def make_plan(document: Document, wish: Wish) -> Plan:
    """Return what `document` lacks for the function to stream; nothing, if it streams already.

    Raises:
        Refusal: The function cannot stream this way.
    """
    template = Template(document)
    function = _choose(template, wish.function)
    _refuse_package(template, function, wish)
    _refuse_properties(template, function)
    plan = Plan(function, Editor(document))
    layer = _add_layer(template, plan, wish)
    _add_variables(template, plan, layer)
    _add_url(template, plan, wish)
    plan.notes += _notes(template, plan, wish)
    return plan


def references(value: Any) -> Iterator[str]:
    """Return the names that a part of a template refers to: logical IDs and pseudo parameters."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key in ("Ref", "DependsOn", "Fn::GetAtt"):
                for name in [below] if isinstance(below, str) else below if isinstance(below, list) else []:
                    yield str(name).partition(".")[0]
            elif key == "Fn::Sub":
                text = below[0] if isinstance(below, list) and below else below
                yield from (name.partition(".")[0] for name in re.findall(r"\$\{([^!}]+)\}", str(text)))
            yield from references(below)
    elif isinstance(value, list):
        for below in value:
            yield from references(below)


def _choose(template: Template, function: str) -> str:
    name, functions = template.document.name, template.functions
    if function in functions:
        return function
    if not function and len(functions) == 1:
        return functions[0]
    nested = [
        f"{logical_id} ({_mapping(_mapping(template.resources, logical_id), 'Properties').get(location)})"
        for type_, location in NESTED.items()
        for logical_id in template.resources
        if _mapping(template.resources, logical_id).get("Type") == type_
    ]
    found = f"It has: {', '.join(functions)}" if functions else "It has none"
    hint = f". Choose one of them with function={functions[0]}" if functions else ""
    if nested:
        hint += (
            f". It also has nested applications: {', '.join(nested)}. For a function in one of these, run this in the"
            " folder of the nested template, or name that with template_file=PATH"
        )
    other = _mapping(template.resources, function).get("Type")
    if not function:
        raise Refusal(f"{name} has {len(functions)} functions ({FUNCTION}), so one must be named. {found}{hint}")
    if other is not None:
        raise Refusal(f"{function} in {name} is of the type {other}; it must be {FUNCTION}. {found}{hint}")
    raise Refusal(f"{name} has no function ({FUNCTION}) named '{function}'. {found}{hint}")


def _refuse_package(template: Template, function: str, wish: Wish) -> None:
    """Refuse a function whose package cannot take the runtime as a layer."""
    own = template.own(function)
    if template.property(function, "PackageType") == "Image" or "ImageUri" in own:
        raise Refusal(
            f"{function} is a container image, and images have no layers. Add the runtime to the image instead:\n"
            "  1. Copy it into the image's build context:\n"
            f"       cp -R '{wish.runtime_source}' CONTEXT/streaming_runtime_files\n"
            "  2. Add these two lines to the end of the Dockerfile; its CMD stays:\n"
            "       COPY streaming_runtime_files/ /var/task/\n"
            '       ENTRYPOINT ["/var/task/bootstrap"]\n'
            f"  3. Give the function an {URL} with InvokeMode: {STREAM}"
        )
    if own.get("InlineCode") is not None:
        raise Refusal(
            f"{function} has InlineCode, which `sam build` and local tools cannot run. Move the code to a file, give"
            " its folder as CodeUri, then run this again"
        )
    if template.property(function, "DurableConfig") is not None:
        # Seen in version 3.0.0 of AWS's package for it, aws-durable-execution-sdk-python.
        raise Refusal(
            f"{function} is a durable function (DurableConfig), whose result is stored as JSON when the handler has"
            " returned, so it cannot be streamed. Stream from a second function, and adopt that one"
        )
    runtime = template.property(function, "Runtime")
    version = re.fullmatch(r"python(\d+)\.(\d+)", runtime) if isinstance(runtime, str) else None
    if isinstance(runtime, str) and version is None:
        remedy = "this adds streaming to Python functions (python3.11 and later)"
        if runtime.startswith("provided"):
            remedy = (
                f"Lambda ignores {WRAPPER} there. Copy the files in '{wish.runtime_source}' to the root of the package:"
                " their bootstrap is the entry point"
            )
        elif runtime.startswith("nodejs"):
            remedy = "Node.js streams without this: wrap the handler in awslambda.streamifyResponse"
        raise Refusal(f"{function} has Runtime: {runtime}; {remedy}")
    if version is not None and (int(version[1]), int(version[2])) < OLDEST_PYTHON:
        raise Refusal(
            f"{function} has Runtime: {runtime}; streaming needs python3.11 or later. Raise it, then run this again"
        )


def _refuse_properties(template: Template, function: str) -> None:
    """Refuse a function whose properties cannot be added to, or already hold what would be in the way."""
    document, path = template.document, ("Resources", function, "Properties")
    resource, properties = document.find(*path[:2]), document.find(*path)
    if not is_plain(resource, yaml.MappingNode) or not is_plain(properties, yaml.MappingNode):
        raise Refusal(
            f"The properties of {function} are not written out in {document.name}, but come from an anchor or are"
            " computed. Write them out, then run this again"
        )
    for layer in template.layers(function):
        if "LambdaAdapterLayer" in str(layer):
            raise Refusal(
                f"{function} has the layer of Lambda Web Adapter, which also starts through {BOOTSTRAP}. Remove it and"
                f" its {WRAPPER}, then run this again"
            )


def _add_layer(template: Template, plan: Plan, wish: Wish) -> str:
    """Return the logical ID of the layer."""
    function = plan.function
    layer = template.runtime_layer(wish.layer_folder)
    if layer is None:
        layer = _free_name(template, "Resources", "StreamingRuntimeLayer", "StreamingRuntimeLayerVersion")
        properties = {"ContentUri": wish.layer_folder, "RetentionPolicy": "Delete"}
        plan.editor.add(("Resources",), {layer: {"Type": LAYER, "Properties": properties}})
        plan.shared.add(("Resources", layer))
    layers = template.layers(function)
    if {"Ref": layer} in layers:
        return layer
    if len(layers) >= MOST_LAYERS:
        raise Refusal(
            f"{function} has {len(layers)} layers, and Lambda allows {MOST_LAYERS}. Remove one or merge two, then run"
            " this again"
        )
    plan.editor.append(("Resources", function, "Properties", "Layers"), Intrinsic("Ref", layer))
    return layer


def _add_variables(template: Template, plan: Plan, layer: str) -> None:
    function = plan.function
    variables: dict[str, Any] = {}
    current = template.variable(function, WRAPPER)
    if current is None:
        variables[WRAPPER] = BOOTSTRAP
    elif current == BOOTSTRAP:
        if {"Ref": layer} not in template.layers(function):
            raise Refusal(
                f"{function} already has {WRAPPER}: {BOOTSTRAP}, from another layer, such as that of Lambda Web"
                " Adapter. Remove the variable and that layer, then run this again"
            )
    elif current == IN_PACKAGE:
        raise Refusal(
            f"{function} already has {WRAPPER}: {IN_PACKAGE}, so its package brings a runtime of its own and may stream"
            " as it is. Otherwise remove the variable, then run this again"
        )
    elif template.variable(function, CHAINED) is not None:
        raise Refusal(
            f"{function} has both {WRAPPER} and {CHAINED}, and only one other wrapper can be started. Remove one of"
            " them, then run this again"
        )
    else:
        plan.notes.append(_CHAINED_NOTE.format(wrapper=_shown(current)))
        if entry(template.document.find(*_variables(function)), WRAPPER) is not None:
            plan.editor.chain(_variables(function), WRAPPER, BOOTSTRAP)
        else:
            variables |= {WRAPPER: BOOTSTRAP, CHAINED: current}
    buffered = "direct rest-api" if _has_buffered_api(template, plan) else "direct"
    if template.variable(function, BUFFERED_CALLERS) is None:
        variables[BUFFERED_CALLERS] = buffered
    if variables:
        plan.editor.add(_variables(function), variables)


def _variables(function: str) -> tuple[str, ...]:
    return ("Resources", function, "Properties", "Environment", "Variables")


def _has_buffered_api(template: Template, plan: Plan) -> bool:
    """Whether REST APIs call the function that buffer, so cannot read the HTTP metadata of a stream.

    Events of a REST API that streams look the same, so the runtime has to be told.
    """
    events = _mapping(template.own(plan.function), "Events").values()
    modes = [_mapping(event, "Properties").get("ResponseTransferMode") for event in events if _is_api(event)]
    if STREAM in modes and {*modes} != {STREAM}:
        plan.notes.append(
            f"{plan.function} has Api events that stream and others that buffer. The runtime answers all of them for"
            f" one kind, as {BUFFERED_CALLERS} says, so use one kind only."
        )
    return any(mode != STREAM for mode in modes)


def _is_api(event: Any) -> bool:
    return isinstance(event, dict) and event.get("Type") == "Api"


def _add_url(template: Template, plan: Plan, wish: Wish) -> None:
    function = plan.function
    configuration = _mapping(template.own(function), "FunctionUrlConfig")
    existing = template.url(function)
    if configuration or _mapping(template.globals, "FunctionUrlConfig"):
        inherited = _mapping(template.globals, "FunctionUrlConfig").get("InvokeMode")
        path: tuple[str, ...] = ("Resources", function, "Properties", "FunctionUrlConfig")
        _add_mode(template, plan, path, configuration.get("InvokeMode"), inherited)
    elif existing is not None:
        _add_mode(template, plan, ("Resources", existing[0], "Properties"), existing[1].get("InvokeMode"), None)
    else:
        _add_new_url(template, plan, wish)


def _add_mode(template: Template, plan: Plan, path: tuple[str, ...], mode: Any, inherited: Any) -> None:
    """Make a URL stream that exists already; its settings and its permissions stay."""
    if mode is None and inherited != STREAM:
        plan.editor.add(path, {"InvokeMode": STREAM})
    elif mode is not None and template.resolve(mode) != STREAM:
        raise Refusal(
            f"{'.'.join(path)} has InvokeMode: {_shown(mode)}, which does not stream. Change it to {STREAM}, then run"
            " this again"
        )


def _add_new_url(template: Template, plan: Plan, wish: Wish) -> None:
    function = plan.function
    # With an alias, requests go to the version that it points to, as those of SAM's own events do.
    aliased = template.property(function, "AutoPublishAlias") is not None
    name = Intrinsic("Ref", f"{function}.Alias" if aliased else function)
    target = name if aliased else Intrinsic("GetAtt", f"{function}.Arn")
    condition = _mapping(template.resources, function).get("Condition")
    conditional = {"Condition": condition} if isinstance(condition, str) else {}

    def add(name: str, alternative: str, type_: str, properties: dict[str, Any]) -> str:
        logical_id = _free_name(template, "Resources", name, alternative)
        plan.editor.add(("Resources",), {logical_id: {"Type": type_, **conditional, "Properties": properties}})
        return logical_id

    url = Compact(TargetFunctionArn=target, AuthType=wish.url_auth, InvokeMode=STREAM)
    url_id = add(f"{function}Url", f"{function}StreamUrl", URL, url)
    if wish.url_auth == "NONE":
        # Since October 2025 callers need both: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
        anyone = {"FunctionName": name, "Principal": "*"}
        permission = Compact(anyone, Action="lambda:InvokeFunctionUrl", FunctionUrlAuthType="NONE")
        add(f"{url_id}Permission", f"{url_id}StreamPermission", PERMISSION, permission)
        permission = Compact(anyone, Action="lambda:InvokeFunction", InvokedViaFunctionUrl=True)
        add(f"{url_id}InvokePermission", f"{url_id}StreamInvokePermission", PERMISSION, permission)
    output = _free_name(template, "Outputs", f"{function}Url", f"{function}StreamUrl")
    value = Compact(conditional, Value=Intrinsic("GetAtt", f"{url_id}.FunctionUrl"))
    plan.editor.add(("Outputs",), {output: value})


def _notes(template: Template, plan: Plan, wish: Wish) -> Iterator[str]:
    """Return notes on what may not work as users expect, without being a reason to refuse."""
    function = plan.function
    runtime, timeout = template.property(function, "Runtime"), template.property(function, "Timeout")
    if not isinstance(runtime, str):
        yield f"Runtime of {function} is computed. Check that it is python3.11 or later."
    if timeout is None or (isinstance(timeout, str) and timeout.isdecimal() and int(timeout) < SHORT_TIMEOUT):
        limit = AWS_LIMITS["timeout"]
        seconds = limit["default"] if timeout is None else timeout
        yield (
            f"Timeout of {function} is {seconds} s. A stream that takes longer is cut off: raise Timeout, up to "
            f"{limit['most']}."
        )
    if template.property(function, "VpcConfig") is not None:
        yield (
            f"{function} is in a VPC. AWS says that function URLs do not stream within a VPC environment, which may be "
            "about callers there. Probe the deployed URL; InvokeWithResponseStream streams in any case."
        )
    snapshot = template.property(function, "SnapStart")
    alias = template.property(function, "AutoPublishAlias")
    if _mapping({"": snapshot}, "").get("ApplyOn") == "PublishedVersions" and alias is None:
        yield f"SnapStart of {function} is for published versions, and the URL calls $LATEST. Set AutoPublishAlias."
    if any(insertion.path == ("Outputs",) for insertion in plan.editor.insertions):
        if wish.url_auth == "NONE":
            yield "Anyone on the internet may call the new URL, and you pay for each call (url_auth=NONE)."
        else:
            yield "Callers of the new URL sign their requests (AWS_IAM). For a public URL: url_auth=NONE."


def _free_name(template: Template, section: str, *names: str) -> str:
    taken = {*_mapping(template.whole, section)}
    if section == "Resources":
        taken |= {*_mapping(template.whole, "Parameters")}
    numbered = (f"{names[-1]}{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain(names, numbered) if name not in taken)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _mapping(parent: Any, key: str) -> dict[str, Any]:
    """Return the mapping at `key` of `parent`; an empty one where either is something else."""
    value = parent.get(key) if isinstance(parent, dict) else None
    return value if isinstance(value, dict) else {}
