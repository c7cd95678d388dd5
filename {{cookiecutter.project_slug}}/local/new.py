"""`make new FUNCTION=Admin`: add a function to the project, and print the difference.

It gets a folder, an event, a test, and its resources in `template.yaml`. These follow those of a function that streams
already: its runtime, limits, log, URL, check of tokens, permissions and alarms, but not its policies and its own
variables.
"""

from __future__ import annotations

import argparse
import difflib
import keyword
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from .template import TemplateLoader

_FUNCTION = "AWS::Serverless::Function"
# What belongs to the other function alone: what it may do, who calls it, and what is reserved for it.
_NOT_COPIED = {
    *("Events", "FunctionName", "FunctionUrlConfig", "Layers", "Policies", "ReservedConcurrentExecutions", "Role"),
    *("Description", "VpcConfig"),
}
# What only a function that streams has.
_ONLY_STREAMS = {"AutoPublishAlias", "AutoPublishAliasAllProperties", "DeploymentPreference", "SnapStart"}
_COPIED_VARIABLES = ("AWS_LAMBDA_EXEC_WRAPPER", "STREAMING_RUNTIME_METRICS_NAMESPACE")
# Checks each request before the function's own handler runs. Only that of tokens is copied: a distribution has one
# function behind it, so the new URL could not know the distribution's secret.
_FRONT_DOOR = "front_door.entry.handler"
_OWN_HANDLER = "FRONT_DOOR_HANDLER"
_TOKEN_VARIABLES = ("JWT_ISSUER", "JWT_AUDIENCE", "JWT_CLIENT_ID", "JWT_ALGORITHM", "JWT_LEEWAY")
# The alarms of a function that does not stream.
_PLAIN_METRICS = ("Errors", "Throttles")

_STREAMING_APP = '''"""What {function} streams."""

import time


def handler(event, context):
    """Stream three lines."""
    for number in range(1, 4):
        yield f"{{number}} of 3\\n"
        time.sleep(0.1)
'''
_STREAMING_TEST = '''"""{function}, through its URL on localhost."""

import urllib.request
from collections.abc import Callable


def test_{folder}_streams(serve: Callable[..., str]) -> None:
    with urllib.request.urlopen(serve(function="{function}"), timeout=30) as response:
        assert response.status == 200
        assert response.read() == b"1 of 3\\n2 of 3\\n3 of 3\\n"
'''
_PLAIN_APP = '''"""What {function} does with an event."""


def handler(event, context):
    """Return the names of the event's fields."""
    return sorted(event)
'''
_PLAIN_TEST = '''"""{function}, invoked on this machine."""

from collections.abc import Callable
from typing import Any


def test_{folder}_handles_an_event(invoke: Callable[..., Any]) -> None:
    assert invoke("{function}", {{"b": 1, "a": 2}}) == ["a", "b"]
'''


class NewFunctionError(Exception):
    """The function cannot be added; the message says why and what to do."""


@dataclass(frozen=True)
class Names:
    """The names of a new function.

    Attributes:
        prefix: How the names of its resources begin, such as `Admin`.
        folder: Folder of its code, such as `admin`.
    """

    prefix: str
    folder: str

    @classmethod
    def of(cls, text: str) -> Names:
        """Return the names for what the user calls the function.

        Raises:
            NewFunctionError: It is not a name for a resource.
        """
        prefix = text.removesuffix("Function")
        if not re.fullmatch(r"[A-Z][A-Za-z0-9]{1,40}", prefix):
            raise NewFunctionError(f"FUNCTION must be letters and digits, such as Admin or OrderEvents, got {text!r}")
        folder = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", prefix).lower()
        return cls(prefix, f"{folder}_" if keyword.iskeyword(folder) else folder)

    @property
    def function(self) -> str:
        """Logical ID of the function."""
        return f"{self.prefix}Function"


@dataclass(frozen=True)
class _Block:
    """A key of a mapping with its value and the comments above it, as lines of the template."""

    key: str
    node: yaml.Node
    first: int
    last: int


class Source:
    """The text of a template, and where its parts are."""

    def __init__(self, text: str) -> None:
        """Read a template.

        Raises:
            NewFunctionError: It is not a template in block style.
        """
        self.lines = text.splitlines()
        try:
            root = yaml.compose(text, TemplateLoader)
        except yaml.YAMLError as error:
            raise NewFunctionError(f"cannot read template.yaml: {error}") from error
        self.sections = {block.key: block for block in self.blocks(root)}
        if "Resources" not in self.sections:
            raise NewFunctionError("template.yaml has no Resources")
        self.resources = {block.key: block for block in self.blocks(self.sections["Resources"].node)}

    def blocks(self, node: yaml.Node | None) -> list[_Block]:
        """Return the blocks of a mapping; none of another node, nor of one in flow style."""
        if not isinstance(node, yaml.MappingNode) or node.flow_style:
            return []
        found = []
        for key, value in node.value:
            first, last = key.start_mark.line, value.end_mark.line
            block_scalar = isinstance(value, yaml.ScalarNode) and value.style in ("|", ">")
            if block_scalar or (isinstance(value, yaml.CollectionNode) and not value.flow_style):
                last -= 1  # the parser has read up to the next token
            while last > first and self._is_void(last):
                last -= 1
            indent = " " * key.start_mark.column
            while first and self.lines[first - 1].startswith(f"{indent}#"):
                first -= 1
            found.append(_Block(str(key.value), value, first, last))
        return found

    def inner(self, block: _Block, *path: str) -> dict[str, _Block]:
        """Return the blocks of the mapping at `path` of a block."""
        for key in path:
            inner = {one.key: one for one in self.blocks(block.node)}
            if key not in inner:
                return {}
            block = inner[key]
        return {one.key: one for one in self.blocks(block.node)}

    def value(self, block: _Block, *path: str) -> object:
        """Return the value at `path` of a block, None without one."""
        found = TemplateLoader("").construct_document(block.node)
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def _is_void(self, line: int) -> bool:
        text = self.lines[line].strip() if line < len(self.lines) else ""
        return not text or text.startswith("#")


def add_function(text: str, names: Names, streams: bool) -> str:
    """Return a template's text with the resources of a new function.

    Raises:
        NewFunctionError: The message says what is wrong and what to do.
    """
    source = Source(text)
    pattern = _pattern(source)
    if names.function in source.resources:
        raise NewFunctionError(f"template.yaml has a {names.function} already. Choose another name with FUNCTION=…")
    copied = [block for block in source.resources.values() if _is_copied(source, block, pattern.key, streams)]
    beginning = re.compile(rf"{pattern.key.removesuffix('Function')}|Stream")
    renamed = {block.key: names.prefix + beginning.sub("", block.key, count=1) for block in copied}
    renamed[pattern.key] = names.function
    if taken := sorted(set(renamed.values()) & source.resources.keys()):
        raise NewFunctionError(f"template.yaml has {', '.join(taken)} already. Choose another name with FUNCTION=…")
    checked = streams and _checks_tokens(source, pattern)
    blocks = [_function_lines(source, pattern, names, streams)]
    blocks += [_resource_lines(source, block, names, checked) for block in copied]
    added: list[str] = []
    for lines in blocks:
        added += ["", *(_renamed(line, renamed) for line in lines)]
    urls = [renamed[block.key] for block in copied if source.value(block, "Type") == "AWS::Lambda::Url"]
    outputs = [
        line
        for url in urls
        for line in (
            f"  {url}:",
            f"    Description: URL of {names.function}",
            f"    Value: !GetAtt {url}.FunctionUrl",
        )
    ]
    lines = list(source.lines)
    end = max(block.last for block in source.resources.values())
    if outputs and (section := source.sections.get("Outputs")) is not None:
        at = section.last
        lines[at + 1 : at + 1] = outputs
        lines[end + 1 : end + 1] = added
    else:
        lines[end + 1 : end + 1] = [*added, *(["", "Outputs:", *outputs] if outputs else [])]
    line_end = "\r\n" if "\r\n" in text else "\n"
    return line_end.join(lines) + line_end


def _pattern(source: Source) -> _Block:
    """Return the function that the new one follows: StreamFunction, or else the first one of the template."""
    functions = [block for block in source.resources.values() if source.value(block, "Type") == _FUNCTION]
    found = next((block for block in functions if block.key == "StreamFunction"), next(iter(functions), None))
    if found is None or not source.inner(found, "Properties"):
        raise NewFunctionError("template.yaml has no function in block style that the new one could follow")
    return found


def _is_copied(source: Source, block: _Block, function: str, streams: bool) -> bool:
    """Return whether a resource belongs to the function and its URL, so that the new function gets one too."""
    kind, text = source.value(block, "Type"), str(source.value(block, "Properties"))
    mentions = re.search(rf"'{function}(\.\w+)?'", text) is not None
    if kind == "AWS::Logs::LogGroup":
        own = source.resources[function]
        return f"'{block.key}'" in str(source.value(own, "Properties", "LoggingConfig"))
    if kind == "AWS::CloudWatch::Alarm":
        metric = source.value(block, "Properties", "MetricName")
        by_alias = "'Resource'" in text
        return mentions and (streams or (metric in _PLAIN_METRICS and not by_alias))
    if kind == "AWS::Lambda::Permission":
        return streams and mentions and source.value(block, "Properties", "Principal") == "*"
    return streams and mentions and kind == "AWS::Lambda::Url"


def _function_lines(source: Source, pattern: _Block, names: Names, streams: bool) -> list[str]:
    properties = source.inner(pattern, "Properties")
    metadata = source.inner(pattern, "Metadata")
    image = source.value(pattern, "Properties", "PackageType") == "Image"
    lines = [f"  {pattern.key}:", f"    Type: {_FUNCTION}", "    Metadata:"]
    if image and streams:
        lines += [*_between(source, metadata.values()), f"        CODE: {names.folder}"]
    elif image:
        lines += ["      BuildMethod: makefile", "      ContextPath: .", "      WorkingDirectory: ."]
    else:
        lines += _between(source, [block for key, block in metadata.items() if streams or key != "PythonVersion"])
    lines.append("    Properties:")
    if not image or not streams:
        handler = _FRONT_DOOR if streams and _checks_tokens(source, pattern) else "app.handler"
        lines += [f"      CodeUri: {names.folder}/", f"      Handler: {handler}"]
    version = source.value(pattern, "Metadata", "DockerBuildArgs", "PYTHON_VERSION")
    bundled = str(source.value(pattern, "Metadata", "PythonVersion")).rpartition(".")[0]
    if not streams and (image or bundled):
        lines.append(f"      Runtime: python{version or bundled}")
        properties = {key: block for key, block in properties.items() if key != "Runtime"}
    left = {"CodeUri", "Handler", *_NOT_COPIED} | (_ONLY_STREAMS if not streams else set())
    if not streams:
        left |= {"PackageType", "ImageConfig", "Environment"}
    for key, block in properties.items():
        if key == "Environment" and streams:
            lines += _variables(source, pattern)
        elif key == "ImageConfig" and not _checks_tokens(source, pattern):
            lines += [line.replace(_FRONT_DOOR, "app.handler") for line in _between(source, [block])]
        elif key not in left:
            lines += _between(source, [block])
    return lines


def _variables(source: Source, pattern: _Block) -> list[str]:
    variables = source.inner(pattern, "Properties", "Environment", "Variables")
    copied: tuple[str, ...] = _COPIED_VARIABLES
    if _checks_tokens(source, pattern):
        copied += (_OWN_HANDLER, *_TOKEN_VARIABLES)
    kept = [block for key, block in variables.items() if key in copied]
    if not kept:
        return []
    own = re.compile(rf"^( *{_OWN_HANDLER}:).*")
    lines = [own.sub(r"\1 app.handler", line) for line in _between(source, kept)]
    return ["      Environment:", "        Variables:", *lines]


def _checks_tokens(source: Source, pattern: _Block) -> bool:
    properties = source.value(pattern, "Properties")
    variables = source.inner(pattern, "Properties", "Environment", "Variables")
    return _FRONT_DOOR in str(properties) and "JWT_ISSUER" in variables


def _resource_lines(source: Source, block: _Block, names: Names, checked: bool) -> list[str]:
    lines = source.lines[block.first : block.last + 1]
    if not checked:  # the comments of a URL that is closed by a distribution
        lines = [line.replace("Lambda itself refuses nobody.", "Anyone can call the URL.") for line in lines]
        lines = [line for line in lines if "# Lambda lets every request in." not in line]
    # Two functions must not share a log.
    own = re.compile(r"(LogGroupName:.*\$\{AWS::StackName}[\w-]*)")
    return [own.sub(rf"\1-{names.folder.rstrip('_').replace('_', '-')}", line) for line in lines]


def _between(source: Source, blocks: Iterable[_Block]) -> list[str]:
    return [line for block in blocks for line in source.lines[block.first : block.last + 1]]


def _renamed(line: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        line = re.sub(rf"\b{old}(?=\b|Alias[a-z])", new, line)
    return line


def new_files(project: Path, names: Names, streams: bool) -> dict[str, str]:
    """Return the texts of the new files by their paths in the project.

    Raises:
        NewFunctionError: One of them exists.
    """
    app, test = (_STREAMING_APP, _STREAMING_TEST) if streams else (_PLAIN_APP, _PLAIN_TEST)
    event = '{\n  "key": "value"\n}\n'
    if streams and (project / "events" / "get.json").is_file():
        event = (project / "events" / "get.json").read_text(encoding="utf-8")
    given = {"function": names.function, "folder": names.folder}
    texts = {
        f"{names.folder}/app.py": app.format(**given),
        f"{names.folder}/requirements.txt": "",
        f"events/{names.folder}.json": event,
        f"tests/test_{names.folder}.py": test.format(**given),
    }
    for path in (names.folder, *texts):
        if (project / path).exists():
            raise NewFunctionError(f"{path} exists already. Choose another name with FUNCTION=…")
    return texts


def difference(path: str, before: str, after: str) -> Iterator[str]:
    """Yield the lines of a unified diff; an empty `before` stands for a file that is new."""
    old, new = before.splitlines(), after.splitlines()
    name = f"a/{path}" if before else "/dev/null"
    yield from difflib.unified_diff(old, new, name, f"b/{path}", lineterm="")


def main(arguments: list[str] | None = None) -> int:
    """Add the function and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local.new", description=__doc__)
    parser.add_argument("function", help="such as Admin, for AdminFunction in admin/")
    parser.add_argument("--kind", default="stream", choices=("stream", "plain"), help="whether it streams from a URL")
    options = parser.parse_args(arguments)
    project, streams = Path.cwd(), options.kind == "stream"
    template = project / "template.yaml"
    try:
        names = Names.of(options.function)
        files = new_files(project, names, streams)
        with template.open(encoding="utf-8", newline="") as file:
            before = file.read()
        after = add_function(before, names, streams)
    except (NewFunctionError, OSError, ValueError) as error:
        print(f"make new: {error}", file=sys.stderr)
        return 1
    with template.open("w", encoding="utf-8", newline="") as file:
        file.write(after)
    for line in difference("template.yaml", before, after):
        print(line)
    for path, text in files.items():
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_text(text, encoding="utf-8")
        for line in difference(path, "", text):
            print(line)
    if not streams:
        print(f"Add what invokes {names.function}, such as a schedule or a queue, to its Events in template.yaml.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
