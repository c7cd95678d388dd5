"""What the local URL takes from a SAM template, and what it says of one that does not serve."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from local.function import Function, TemplateError, load_function

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


def test_a_function_has_its_own_properties_the_globals_and_defaults_of_parameters(template: Path) -> None:
    function = load_function(template, "StreamFunction")
    assert dataclasses.replace(function, environment={}) == Function(
        name="StreamFunction",
        code=(template.parent / "code").resolve(),
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
        "other has no bootstrap: CodeUri of F must be the folder that holds it",
    ),
    "properties missing": (
        "Resources: {F: {Type: 'AWS::Serverless::Function', Properties: }}",
        "src has no bootstrap",
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
