"""What the local URL takes from a SAM template, and what it says of one that does not serve."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from local.function import Cors, Function, TemplateError, load_function

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


def test_the_handler_of_an_image_is_its_command(template: Path) -> None:
    image = "PackageType: Image, ImageConfig: {Command: [package.module.other]}"
    template.write_text(WHOLE.replace("Properties: {CodeUri: code", f"Properties: {{CodeUri: code, {image}"))
    assert load_function(template, "Plain").handler == "package.module.other"
    template.write_text(template.read_text().replace("[package.module.other]", "not a list"))
    assert load_function(template, "Plain").handler == "app.handler"


def test_a_function_has_its_own_properties_the_globals_and_defaults_of_parameters(template: Path) -> None:
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
        others=("Plain",),
    )
    assert function.environment == {
        "GLOBAL": "global",
        "BOTH": "own",
        "STAGE": "test",
        "LONG": "test",
        # What only AWS knows is a text that says so.
        "SECRET": "<Ref.Secret>",
        "TABLE": "<Ref.Table>",
        "ARN": "<GetAtt.Table.Arn>",
        "URL": "https://test/",
        "JOINED": "<Join.['-', ['a', {'Ref': 'Stage'}]]>",
        # as CloudFormation writes them
        "NUMBER": "1",
        "TRUTH": "true",
    }


def test_what_a_template_leaves_out_is_as_on_lambda(template: Path) -> None:
    template.write_text(
        "Resources: {Bare: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: code}}}", encoding="utf-8"
    )
    function = load_function(template, "Bare")
    assert (function.timeout, function.memory, function.environment) == (3, 128, {})


@pytest.mark.parametrize("section", ["Globals", "Parameters", "Outputs"])
@pytest.mark.parametrize("value", ["", "[]", "text", "{Function: }", "{Function: []}", "{Function: {Environment: }}"])
def test_an_odd_section_elsewhere_does_no_harm(template: Path, section: str, value: str) -> None:
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
    "no UTF-8": ("Resources: \udcff", "cannot read .*template.yaml: .*decode"),
    "date that is none": ("Date: 2026-13-45", "cannot read .*template.yaml: month"),
    "empty": ("", r"no AWS::Serverless::Function called F \(found: none\); give --function"),
    "only text": ("text", r"called F \(found: none\)"),
    "list": ("[1, 2]", r"called F \(found: none\)"),
    "resources are a list": ("Resources: [F]", r"called F \(found: none\)"),
    "resource that is no mapping": ("Resources: {F: text, G: 1, H: }", r"called F \(found: none\)"),
    "other resource": ("Resources: {F: {Type: 'AWS::S3::Bucket'}}", r"called F \(found: none\)"),
    "others": (WHOLE, r"called F \(found: StreamFunction, Plain\); give --function"),
    "number": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: code, Timeout: soon}}}",
        "Timeout of F in .* must be a number, not 'soon'",
    ),
    "number that is none": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: code, MemorySize: .nan}}}",
        "MemorySize of F in .* must be a number, not nan",
    ),
    "number only AWS knows": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: code, MemorySize: !Ref Unknown}}}",
        "MemorySize of F in .* must be a number, not '<Ref.Unknown>'",
    ),
    "no such folder": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: {CodeUri: other}}}",
        "CodeUri of F in .* must be a folder, and .*/other is none",
    ),
    "properties missing": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: }}",
        "CodeUri of F in .* must be a folder, and .*/src is none",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_template_that_does_not_serve_is_refused_clearly(template: Path, text: str, message: str) -> None:
    template.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(TemplateError, match=message):
        load_function(template, "F")


def test_a_missing_template_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"no template at .*: run this in the project's folder, or give --template"):
        load_function(tmp_path / "template.yaml", "F")
    with pytest.raises(TemplateError, match="cannot read"):
        load_function(tmp_path, "F")


def test_a_bootstrap_that_cannot_be_executed_is_refused_with_a_remedy(template: Path) -> None:
    (template.parent / "code" / "bootstrap").chmod(0o644)
    with pytest.raises(TemplateError, match=r"bootstrap cannot be executed, neither here nor on Lambda: chmod \+x it"):
        load_function(template, "StreamFunction")


FUNCTION = "F: {Type: AWS::Serverless::Function, Properties: {CodeUri: code%s}}"
URL = "U: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: %s, InvokeMode: %s%s}}"
STREAM = "RESPONSE_STREAM"


def url_of(template: Path, *resources: str, globals_: str = "") -> Function:
    """The function of a template with these resources."""
    text = "Parameters: {Mode: {Type: String, Default: RESPONSE_STREAM}, Age: {Type: Number, Default: 60}}\n"
    if globals_:
        text += f"Globals: {{Function: {globals_}}}\n"
    template.write_text(f"{text}Resources: {{{', '.join(resources)}}}", encoding="utf-8")
    return load_function(template, "F")


@pytest.mark.parametrize("target", ["!Ref F", "!GetAtt F.Arn", "!GetAtt [F, Arn]", "{'Fn::GetAtt': [F, Arn]}"])
def test_a_url_is_found_however_it_names_its_function(template: Path, target: str) -> None:
    found = url_of(template, FUNCTION % "", URL % (target, STREAM, ""))
    assert (found.has_url, found.streams) == (True, True)


def test_a_url_of_another_function_is_not_its_own(template: Path) -> None:
    found = url_of(template, FUNCTION % "", URL % ("!GetAtt G.Arn", "BUFFERED", ""), "V: text")
    assert (found.has_url, found.streams) == (False, True)


def test_what_globals_and_parameters_say_of_the_url_counts(template: Path) -> None:
    inline = "{ReservedConcurrentExecutions: 3, FunctionUrlConfig: {AuthType: NONE, InvokeMode: BUFFERED}}"
    found = url_of(template, FUNCTION % "", globals_=inline)
    assert (found.has_url, found.streams, found.concurrency) == (True, False, 3)
    own = FUNCTION % ", ReservedConcurrentExecutions: 0, FunctionUrlConfig: {InvokeMode: !Ref Mode}"
    found = url_of(template, own, globals_=inline)
    assert (found.has_url, found.streams, found.concurrency) == (True, True, 0)


def test_cors_is_read_as_cloudformation_does(template: Path) -> None:
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
