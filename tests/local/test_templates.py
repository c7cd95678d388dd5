"""What the local URL reads from a SAM template, and its messages about unusable ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from local.template import Cors, Function, Template, TemplateError, load_function, load_functions

WHOLE = """
Parameters:
  Seconds: {Type: Number, Default: 25}
  Stage: {Type: String, Default: test}
  Secret: {Type: String}
Globals:
  Function:
    Timeout: !Ref Seconds
    MemorySize: 512
    Runtime: python3.13
    Environment:
      Variables: {GLOBAL: global, BOTH: global}
Resources:
  Table:
    Type: AWS::DynamoDB::Table
  StreamFunction:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: code/
      Handler: package.module.handler
      MemorySize: 1024
      Environment:
        Variables:
          BOTH: own
          STAGE: !Ref Stage
          LONG: {Ref: Stage}
          SECRET: !Ref Secret
          TABLE: !Ref Table
          ARN: !GetAtt Table.Arn
          URL: !Sub "https://${Stage}/"
          JOINED: !Join ["-", [a, !Ref Stage]]
          NUMBER: 1
          TRUTH: true
  Plain:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: code}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template beside a folder `code` that can be served."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "bootstrap").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "code" / "bootstrap").chmod(0o755)
    path = tmp_path / "template.yaml"
    path.write_text(WHOLE, encoding="utf-8")
    return path


def test_image_handler_is_command(template: Path) -> None:
    image = "PackageType: Image, ImageConfig: {Command: [package.module.other]}"
    template.write_text(WHOLE.replace("Properties: {CodeUri: code", f"Properties: {{CodeUri: code, {image}"))
    assert load_function(template, "Plain").handler == "package.module.other"
    template.write_text(template.read_text().replace("[package.module.other]", "not a list"))
    assert load_function(template, "Plain").handler == "app.handler"


def test_function_properties(template: Path) -> None:
    function = load_function(template, "StreamFunction")
    assert dataclasses.replace(function, environment={}) == Function(
        name="StreamFunction",
        code=(template.parent / "code").resolve(),
        bootstrap=(template.parent / "code" / "bootstrap").resolve(),
        handler="package.module.handler",
        runtime="python3.13",
        timeout=25.0,
        memory=1024,
        environment={},
        has_url=False,
    )
    assert function.environment == {
        "GLOBAL": "global",
        "BOTH": "own",
        "STAGE": "test",
        "LONG": "test",
        # A placeholder for what only AWS knows.
        "SECRET": "<Ref.Secret>",
        "TABLE": "<Ref.Table>",
        "ARN": "<GetAtt.Table.Arn>",
        "URL": "https://test/",
        "JOINED": "<Join.['-', ['a', {'Ref': 'Stage'}]]>",
        # as CloudFormation writes them
        "NUMBER": "1",
        "TRUTH": "true",
    }


def test_all_functions_are_read(template: Path) -> None:
    functions = load_functions(template)
    assert tuple(functions) == Template(template).names == ("StreamFunction", "Plain")
    assert functions == {name: load_function(template, name) for name in functions}
    assert (functions["Plain"].handler, functions["Plain"].memory) == ("app.handler", 512)


def test_lambda_defaults(template: Path) -> None:
    template.write_text(
        "Resources: {Bare: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: code}}}", encoding="utf-8"
    )
    function = load_function(template, "Bare")
    assert (function.timeout, function.memory, function.environment) == (3, 128, {})


@pytest.mark.parametrize("section", ["Globals", "Parameters", "Outputs"])
@pytest.mark.parametrize("value", ["", "[]", "text", "{Function: }", "{Function: []}", "{Function: {Environment: }}"])
def test_odd_sections_are_ignored(template: Path, section: str, value: str) -> None:
    template.write_text(
        f"{section}: {value}\n"
        "Resources:\n"
        "  Odd: text\n"
        "  Empty:\n"
        "  F:\n"
        "    Type: AWS::Serverless::Function\n"
        "    Properties: {CodeUri: code, Environment: {Variables: }}\n",
        encoding="utf-8",
    )
    assert load_function(template, "F").environment == {}


REFUSED = {
    "broken YAML": ("Resources: [", "cannot read .*template.yaml: "),
    "not UTF-8": ("Resources: \udcff", "cannot read .*template.yaml: .*decode"),
    "impossible date": ("Date: 2026-13-45", "cannot read .*template.yaml: month"),
    "empty": ("", r"no AWS::Serverless::Function named 'F' \(found: none\)\. Choose one with --function"),
    "only text": ("text", r"named 'F' \(found: none\)"),
    "list": ("[1, 2]", r"named 'F' \(found: none\)"),
    "resources are a list": ("Resources: [F]", r"named 'F' \(found: none\)"),
    "resource that is not a mapping": ("Resources: {F: text, G: 1, H: }", r"named 'F' \(found: none\)"),
    "other resource": ("Resources: {F: {Type: 'AWS::S3::Bucket'}}", r"named 'F' \(found: none\)"),
    "others": (WHOLE, r"named 'F' \(found: StreamFunction, Plain\)\. Choose one with --function"),
    "number": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: code, Timeout: soon}}}",
        "Timeout of F in .* must be a number, got 'soon'",
    ),
    "not a number": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: code, MemorySize: .nan}}}",
        "MemorySize of F in .* must be a number, got nan",
    ),
    "number only AWS knows": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: code, MemorySize: !Ref Unknown}}}",
        "MemorySize of F in .* must be a number, got '<Ref.Unknown>'",
    ),
    "no such folder": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: other}}}",
        "CodeUri of F in .* must be a folder, got .*/other",
    ),
    "properties missing": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: }}",
        "CodeUri of F in .* must be a folder, got .*/src",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_unusable_template(template: Path, text: str, message: str) -> None:
    template.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(TemplateError, match=message):
        load_function(template, "F")


def test_missing_template(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"does not exist\. Run this in the project's folder, or name"):
        load_function(tmp_path / "template.yaml", "F")
    with pytest.raises(TemplateError, match="cannot read"):
        load_function(tmp_path, "F")


def test_bootstrap_not_executable(template: Path) -> None:
    (template.parent / "code" / "bootstrap").chmod(0o644)
    with pytest.raises(TemplateError, match=r"bootstrap is not executable, .*\. Run: chmod \+x /.*bootstrap"):
        load_function(template, "StreamFunction")


FUNCTION = "F: {Type: AWS::Serverless::Function, Properties: {CodeUri: code%s}}"
URL = "U: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: %s, InvokeMode: %s%s}}"
STREAM = "RESPONSE_STREAM"


def url_of(template: Path, *resources: str, globals_: str = "") -> Function:
    """Return the function of a template with these resources."""
    text = "Parameters: {Mode: {Type: String, Default: RESPONSE_STREAM}, Age: {Type: Number, Default: 60}}\n"
    if globals_:
        text += f"Globals: {{Function: {globals_}}}\n"
    template.write_text(f"{text}Resources: {{{', '.join(resources)}}}", encoding="utf-8")
    return load_function(template, "F")


@pytest.mark.parametrize("target", ["!Ref F", "!GetAtt F.Arn", "!GetAtt [F, Arn]", "{'Fn::GetAtt': [F, Arn]}"])
def test_url_target_forms(template: Path, target: str) -> None:
    found = url_of(template, FUNCTION % "", URL % (target, STREAM, ""))
    assert (found.has_url, found.streams) == (True, True)


def test_url_of_other_function(template: Path) -> None:
    found = url_of(template, FUNCTION % "", URL % ("!GetAtt G.Arn", "BUFFERED", ""), "V: text")
    assert (found.has_url, found.streams) == (False, True)


def test_url_from_globals_and_parameters(template: Path) -> None:
    inline = "{ReservedConcurrentExecutions: 3, FunctionUrlConfig: {AuthType: NONE, InvokeMode: BUFFERED}}"
    found = url_of(template, FUNCTION % "", globals_=inline)
    assert (found.has_url, found.streams, found.concurrency) == (True, False, 3)
    own = FUNCTION % ", ReservedConcurrentExecutions: 0, FunctionUrlConfig: {InvokeMode: !Ref Mode}"
    found = url_of(template, own, globals_=inline)
    assert (found.has_url, found.streams, found.concurrency) == (True, True, 0)


def test_cors_settings(template: Path) -> None:
    cors = (
        ", Cors: {AllowOrigins: ['https://a.example', !Sub 'https://${Mode}'], AllowMethods: [GET],"
        " AllowHeaders: ['*'],"
        " ExposeHeaders: [date], AllowCredentials: 'true', MaxAge: !Ref Age}"
    )
    assert url_of(template, FUNCTION % "", URL % ("!Ref F", STREAM, cors)).cors == Cors(
        allow_origins=("https://a.example", "https://RESPONSE_STREAM"),
        allow_methods=("GET",),
        allow_headers=("*",),
        expose_headers=("date",),
        allow_credentials=True,
        max_age=60,
    )
    assert url_of(template, FUNCTION % "", URL % ("!Ref F", STREAM, "")).cors is None
