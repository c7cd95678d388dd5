"""What is added to a template, byte by byte, and what is removed after a user has edited the rest."""

from __future__ import annotations

import pytest
from adopt.adopting.errors import Refusal
from tests.adopt.support import adopt
from tests.helpers.rendering import load_yaml

HELLO = """\
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Globals:
  Function:
    Timeout: 60
Resources:
  HelloFunction:
    Type: AWS::Serverless::Function # the function
    Properties:
      CodeUri: hello/
      Handler: app.handler
      Runtime: python3.13 # its version
Outputs:
  Name:
    Value: !Ref HelloFunction
"""
LAYERS = "      Layers:\n        - !Ref StreamingRuntimeLayer\n"
ENVIRONMENT = "      Environment:\n        Variables:\n          AWS_LAMBDA_EXEC_WRAPPER: /opt/bootstrap\n"
ENVIRONMENT += "          STREAMING_RUNTIME_BUFFERED_CALLERS: direct\n"
LAYER = """\
  StreamingRuntimeLayer:
    Type: AWS::Serverless::LayerVersion
    Properties:
      ContentUri: streaming/runtime
      RetentionPolicy: Delete
"""
URL = """\
  HelloFunctionUrl:
    Type: AWS::Lambda::Url
    Properties: {TargetFunctionArn: !GetAtt HelloFunction.Arn, AuthType: AWS_IAM, InvokeMode: RESPONSE_STREAM}
"""
PERMISSIONS = """\
  HelloFunctionUrlPermission:
    Type: AWS::Lambda::Permission
    Properties: {FunctionName: !Ref HelloFunction, Principal: "*", Action: "lambda:InvokeFunctionUrl", \
FunctionUrlAuthType: NONE}
  HelloFunctionUrlInvokePermission:
    Type: AWS::Lambda::Permission
    Properties: {FunctionName: !Ref HelloFunction, Principal: "*", Action: "lambda:InvokeFunction", \
InvokedViaFunctionUrl: true}
"""
OUTPUT = "  HelloFunctionUrl: {Value: !GetAtt HelloFunctionUrl.FunctionUrl}\n"


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def with_property(*lines: str) -> str:
    """Return the template of a function that has these lines behind its other properties."""
    return replaced(HELLO, "# its version\n", "# its version\n" + "".join(f"      {line}\n" for line in lines))


def added(text: str, **options: str) -> list[str]:
    """Return the lines that are new in the adopted template, after checking that all others stay, in their order."""
    lines, new = text.splitlines(), []
    adoption = adopt(text, **options)
    for line in adoption.text.splitlines():
        if lines and line == lines[0]:
            lines.pop(0)
        else:
            new.append(line)
    assert not lines
    assert adoption.undo() == text
    return new


def test_iam_url() -> None:
    adoption = adopt(HELLO)
    resources = LAYERS + ENVIRONMENT + LAYER + URL
    assert adoption.text == replaced(HELLO, "Outputs:\n", resources + "Outputs:\n") + OUTPUT
    assert adoption.undo() == HELLO


def test_public_url() -> None:
    adoption = adopt(HELLO, url_auth="NONE")
    resources = LAYERS + ENVIRONMENT + LAYER + URL.replace("AWS_IAM", "NONE") + PERMISSIONS
    assert adoption.text == replaced(HELLO, "Outputs:\n", resources + "Outputs:\n") + OUTPUT
    assert len(adoption.text.splitlines()) - len(HELLO.splitlines()) <= 25
    assert adoption.undo() == HELLO


def test_no_outputs_and_no_last_break() -> None:
    """What is added goes before the last entries, so that no line changes."""
    text = HELLO[: HELLO.index("Outputs:")].rstrip("\n")
    end = "      # about the version\n      Runtime: python3.13 # its version"
    text = text.replace("      Runtime: python3.13 # its version", end)
    adoption = adopt(text)
    function = "  HelloFunction:\n"
    changed = replaced(replaced(text, function, LAYER + URL + function), end, LAYERS + ENVIRONMENT + end)
    assert adoption.text == replaced(changed, "Resources:\n", "Outputs:\n" + OUTPUT + "Resources:\n")
    assert adoption.undo() == text


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_comments_before_the_last_section(line_break: str) -> None:
    """Comments further right are about the section before, where more is added behind them."""
    text = HELLO[: HELLO.index("Outputs:")] + "  # about resources\n# about the description\nDescription: x\n  y"
    added(text.replace("\n", line_break))
    resources = "  # about resources\n" + LAYER + URL
    outputs = "Outputs:\n" + OUTPUT + "# about the description\nDescription:"
    assert (resources + outputs).replace("\n", line_break) in adopt(text.replace("\n", line_break)).text


def test_crlf() -> None:
    text = HELLO.replace("\n", "\r\n")
    adoption = adopt(text)
    assert adoption.text == adopt(HELLO).text.replace("\n", "\r\n")
    assert adoption.undo() == text


def test_indentation_of_four() -> None:
    text = HELLO.replace("  ", "    ")
    assert added(text)[:6] == [line.replace("  ", "    ") for line in (LAYERS + ENVIRONMENT).splitlines()]


def test_comments_at_the_end_stay_with_their_entries() -> None:
    text = with_property("# Timeout: 30", "  # more", "", "# about the outputs")
    end = "      # Timeout: 30\n        # more\n"
    assert replaced(text, end, end + LAYERS + ENVIRONMENT + LAYER + URL) + OUTPUT == adopt(text).text


@pytest.mark.parametrize("text", ["Description: |+\n        kept\n", "Description: >-\n        folded\n"])
def test_block_text_at_the_end(text: str) -> None:
    """What is added must not become a part of the text."""
    before = with_property(*text.rstrip("\n").split("\n      ")).replace("Outputs:", "\nOutputs:")
    assert added(before)


def test_block_text_that_ends_the_file() -> None:
    """A line break behind it would become a part of the text, so what is added goes before it."""
    text = HELLO + "  Last:\n    Value: x\n    Description: |\n      no break"
    assert load_yaml(adopt(text).text)["Outputs"]["Last"] == {"Value": "x", "Description": "no break"}
    assert added(text)


def test_existing_layers_and_variables() -> None:
    lines = ("Layers:", "- !Ref A # first", "Environment:", "  Variables:", "    A: b")
    new = added(with_property(*lines))
    assert new[:2] == ["      - !Ref StreamingRuntimeLayer", "          AWS_LAMBDA_EXEC_WRAPPER: /opt/bootstrap"]


def test_flow_style() -> None:
    text = with_property("Layers: [!Ref A]", "Environment: {Variables: {A: b}}")
    adoption = adopt(text)
    assert "Layers: [!Ref A, !Ref StreamingRuntimeLayer]\n" in adoption.text
    variables = "{A: b, AWS_LAMBDA_EXEC_WRAPPER: /opt/bootstrap, STREAMING_RUNTIME_BUFFERED_CALLERS: direct}"
    assert f"Environment: {{Variables: {variables}}}\n" in adoption.text
    assert adoption.undo() == text


@pytest.mark.parametrize("value", ["/opt/otel-instrument # traces", '"/opt/a b"', "!Sub /opt/${Tool}"])
def test_wrapper_is_chained(value: str) -> None:
    text = with_property("Environment:", "  Variables:", f"    AWS_LAMBDA_EXEC_WRAPPER: {value}", "    LAST: x")
    adoption = adopt(text)
    indentation = " " * 10
    old = f"{indentation}AWS_LAMBDA_EXEC_WRAPPER: {value}\n"
    new = f"{indentation}AWS_LAMBDA_EXEC_WRAPPER: /opt/bootstrap\n"
    assert new + old.replace("AWS_LAMBDA", "STREAMING_RUNTIME") in adoption.text
    assert "is now started by the runtime" in adoption.notes[0]
    assert adoption.undo() == text
    assert adopt(adoption.text).text == adoption.text


def test_global_wrapper_is_chained() -> None:
    environment = "    Environment:\n      Variables:\n        AWS_LAMBDA_EXEC_WRAPPER: /opt/global\n"
    text = replaced(HELLO, "    Timeout: 60\n", "    Timeout: 60\n" + environment)
    new = added(text)
    assert "          AWS_LAMBDA_EXEC_WRAPPER: /opt/bootstrap" in new
    assert "          STREAMING_RUNTIME_EXEC_WRAPPER: /opt/global" in new


def test_condition() -> None:
    text = replaced(HELLO, "    Properties:\n", "    Condition: IsProduction\n    Properties:\n")
    after = load_yaml(adopt(text, url_auth="NONE").text)
    conditional = [key for key, value in after["Resources"].items() if value.get("Condition") == "IsProduction"]
    assert sorted(conditional) == [
        "HelloFunction",
        "HelloFunctionUrl",
        "HelloFunctionUrlInvokePermission",
        "HelloFunctionUrlPermission",
    ]
    assert after["Outputs"]["HelloFunctionUrl"]["Condition"] == "IsProduction"


def test_alias() -> None:
    after = load_yaml(adopt(with_property("AutoPublishAlias: live"), url_auth="NONE").text)["Resources"]
    assert after["HelloFunctionUrl"]["Properties"]["TargetFunctionArn"] == {"Ref": "HelloFunction.Alias"}
    assert after["HelloFunctionUrlPermission"]["Properties"]["FunctionName"] == {"Ref": "HelloFunction.Alias"}


@pytest.mark.parametrize(
    ("events", "setting"),
    [
        (("Api:", "    Type: Api"), "direct rest-api"),
        (("Api:", "    Type: Api", "    Properties:", "      ResponseTransferMode: RESPONSE_STREAM"), "direct"),
        (("Queue:", "    Type: SQS"), "direct"),
    ],
)
def test_rest_api_that_buffers(events: tuple[str, ...], setting: str) -> None:
    text = with_property("Events:", *(f"  {line}" for line in events))
    variables = load_yaml(adopt(text).text)["Resources"]["HelloFunction"]["Properties"]["Environment"]["Variables"]
    assert variables["STREAMING_RUNTIME_BUFFERED_CALLERS"] == setting


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        (("FunctionUrlConfig:", "  AuthType: NONE"), ("HelloFunction", "Properties", "FunctionUrlConfig")),
        (("Description: x",), ("Front", "Properties")),
    ],
)
def test_existing_url_is_made_to_stream(lines: tuple[str, ...], path: tuple[str, ...]) -> None:
    """A function has one URL, whose address callers know."""
    text = with_property(*lines)
    if path[0] == "Front":
        target = "TargetFunctionArn: !GetAtt HelloFunction.Arn"
        url = f"  Front:\n    Type: AWS::Lambda::Url\n    Properties:\n      {target}\n      AuthType: NONE\n"
        text = replaced(text, "Outputs:\n", url + "Outputs:\n")
    after = adopt(text)
    part = load_yaml(after.text)["Resources"]
    for key in path:
        part = part[key]
    assert part["InvokeMode"] == "RESPONSE_STREAM"
    assert "HelloFunctionUrl" not in after.text
    assert after.undo() == text


def test_taken_names() -> None:
    text = replaced(HELLO, "Outputs:\n", "  HelloFunctionUrl:\n    Type: AWS::SNS::Topic\nOutputs:\n")
    text += "  HelloFunctionStreamUrl:\n    Value: x\n  HelloFunctionUrl:\n    Value: y\n"
    after = load_yaml(adopt(text).text)
    assert after["Resources"]["HelloFunctionStreamUrl"]["Type"] == "AWS::Lambda::Url"
    assert after["Outputs"]["HelloFunctionStreamUrl2"] == {"Value": {"GetAtt": "HelloFunctionStreamUrl.FunctionUrl"}}


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        (("Timeout: 3",), "Timeout of HelloFunction is 3 s"),
        (("VpcConfig:", "  SubnetIds: [a]"), "is in a VPC"),
        (("SnapStart:", "  ApplyOn: PublishedVersions"), "Set AutoPublishAlias"),
    ],
)
def test_notes(lines: tuple[str, ...], note: str) -> None:
    assert any(note in told for told in adopt(with_property(*lines)).notes)
    assert not any(note in told for told in adopt(HELLO).notes)


def test_computed_runtime_is_noted() -> None:
    text = replaced(HELLO, "python3.13 #", "!FindInMap [A, B, C] #")
    assert any("python3.11 or later" in note for note in adopt(text).notes)


def test_undo_keeps_what_was_edited_since() -> None:
    adoption = adopt(HELLO)
    edited = replaced(adoption.text, "Timeout: 60", "Timeout: 90 # longer")
    edited = replaced(edited, "/opt/bootstrap\n", "/opt/bootstrap\n          MINE: x\n")
    edited = replaced(edited, "  HelloFunctionUrl:\n", "  # mine\n  HelloFunctionUrl:\n")
    undone = replaced(HELLO, "Timeout: 60", "Timeout: 90 # longer")
    variables = "      Environment:\n        Variables:\n          MINE: x\n"
    assert adoption.undo(edited) == replaced(undone, "Outputs:\n", variables + "  # mine\nOutputs:\n")


def test_undo_passes_over_what_is_gone() -> None:
    adoption = adopt(HELLO)
    assert adoption.undo(replaced(adoption.text, URL, "")) == HELLO


def test_undo_after_a_conversion_of_line_breaks() -> None:
    adoption = adopt(HELLO)
    assert adoption.undo(adoption.text.replace("\n", "\r\n")) == HELLO.replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AuthType: AWS_IAM", "AuthType: NONE"),
        ("InvokeMode: RESPONSE_STREAM}", "InvokeMode: RESPONSE_STREAM, Cors: {AllowOrigins: ['*']}}"),
        ("AWS_LAMBDA_EXEC_WRAPPER: /opt/bootstrap", "AWS_LAMBDA_EXEC_WRAPPER:   /opt/bootstrap"),
    ],
)
def test_undo_refuses_what_was_changed_in_between(old: str, new: str) -> None:
    adoption = adopt(HELLO)
    with pytest.raises(Refusal, match=r"was changed since|is written in a way"):
        adoption.undo(replaced(adoption.text, old, new))


@pytest.mark.parametrize("last_first", [True, False])
@pytest.mark.parametrize("outputs", ["Outputs: {}\n", "Outputs:", "Outputs:\n", ""])
def test_undo_in_any_order(outputs: str, last_first: bool) -> None:
    text = HELLO[: HELLO.index("Outputs:")] + "  Second:\n    Type: AWS::Serverless::Function\n    Properties:\n"
    text += "      Runtime: python3.13\n" + outputs
    first = adopt(text)
    second = adopt(first.text, "Second")
    first.shared, second.shared = ([], first.shared) if not last_first else (first.shared, [])
    first.scaffolds = second.scaffolds = [*first.scaffolds, *second.scaffolds]
    one, other = (second, first) if last_first else (first, second)
    assert other.undo(one.undo(second.text)) == text
