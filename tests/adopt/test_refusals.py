"""What cannot be adopted is refused with its reason and a remedy."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from adopt.adopting.errors import Refusal
from tests.adopt.support import adopt
from tests.adopt.test_templates import HELLO, replaced, with_property

NESTED = """\
  Child:
    Type: AWS::Serverless::Application
    Properties:
      Location: child/template.yaml
  Stack:
    Type: AWS::CloudFormation::Stack
    Properties:
      TemplateURL: stack.yaml
Outputs:
"""


class Case(NamedTuple):
    """A template that is refused.

    Attributes:
        name: What is wrong with it.
        text: The template.
        reason: A part of the message that says so.
        remedy: A part of the message that says what to do.
    """

    name: str
    text: str
    reason: str
    remedy: str


def with_runtime(runtime: str) -> str:
    return replaced(HELLO, "python3.13", runtime)


def with_variables(*variables: str) -> str:
    return with_property("Environment:", "  Variables:", *(f"    {variable}" for variable in variables))


def other(*lines: str) -> str:
    """Return the template with another function before the one to adopt."""
    function = "  OtherFunction:\n    Type: AWS::Serverless::Function\n"
    return function + "".join(f"    {line}\n" for line in lines)


IMAGE = replaced(HELLO, "      CodeUri: hello/\n", "      PackageType: Image\n")
FUNCTION = "  HelloFunction:\n"
CASES = (
    Case("missing", replaced(HELLO, FUNCTION, "  Other:\n"), "no function", "It has: Other. Choose one of them"),
    Case(
        "nested",
        replaced(HELLO, FUNCTION, "  A:\n").replace("Outputs:\n", NESTED),
        "no function",
        "child/template.yaml",
    ),
    Case("raw", HELLO.replace("Serverless::Function", "Lambda::Function"), "type AWS::Lambda::Function", "must be"),
    Case("node", with_runtime("nodejs22.x"), "Runtime: nodejs22.x", "awslambda.streamifyResponse"),
    Case("java", with_runtime("java21"), "Runtime: java21", "python3.11 and later"),
    Case("old", with_runtime("python3.9"), "Runtime: python3.9", "python3.11 or later. Raise it"),
    Case("custom", with_runtime("provided.al2023"), "provided.al2023", "root of the package"),
    Case("image", IMAGE, "container image", 'ENTRYPOINT ["/var/task/bootstrap"]'),
    Case("inline", with_property("InlineCode: |", "  x"), "InlineCode", "Move the code to a file"),
    Case("durable", with_property("DurableConfig: {ExecutionTimeout: 60}"), "durable function", "second function"),
    Case("adapter", with_property("Layers: ['arn:x:layer:LambdaAdapterLayerX86:25']"), "Web Adapter", "Remove it"),
    Case(
        "bootstrap", with_variables("AWS_LAMBDA_EXEC_WRAPPER: /opt/bootstrap"), "another layer", "Remove the variable"
    ),
    Case("package", with_variables("AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap"), "its own", "remove the variable"),
    Case(
        "two wrappers",
        with_variables("AWS_LAMBDA_EXEC_WRAPPER: /opt/a", "STREAMING_RUNTIME_EXEC_WRAPPER: /opt/b"),
        "only one other wrapper",
        "Remove one",
    ),
    Case("layers", with_property("Layers: [a, b, c, d, e]"), "Lambda allows 5", "Remove one or merge two"),
    Case("computed layers", with_property("Layers: !If [A, [x], [y]]"), "is computed", "plain mapping or list"),
    Case("long form", with_property("Layers:", "  Fn::If: [A, [x], [y]]"), "is computed", "plain mapping or list"),
    Case("null", with_property("Environment: ~"), "is computed or empty", "plain mapping or list"),
    Case("import", with_variables("Fn::Transform: {Name: AWS::Include}"), "is computed", "plain mapping or list"),
    Case(
        "shared",
        replaced(
            with_property("Environment: &env", "  Variables: {A: b}"),
            "Outputs:\n",
            other("Properties:", "  Runtime: python3.13", "  Environment: *env") + "Outputs:\n",
        ),
        "through the anchor 'env'",
        "Write it out",
    ),
    Case(
        "alias",
        replaced(
            with_property("Environment: *env"),
            FUNCTION,
            other("Properties:", "  Environment: &env", "    Variables: {A: b}") + FUNCTION,
        ),
        "through the anchor 'env'",
        "Write it out",
    ),
    Case(
        "merge key",
        replaced(
            with_property("<<: *common"),
            FUNCTION,
            other("Properties: &common", "  Environment:", "    Variables: {A: b}") + FUNCTION,
        ),
        "comes from a merge key",
        "Write it out",
    ),
    Case(
        "aliased function",
        replaced(HELLO, FUNCTION, other("Properties: &other", "  Runtime: python3.13") + FUNCTION).replace(
            "    Properties:\n", "    Properties: *other\n    Old:\n"
        ),
        "not written out",
        "Write them out",
    ),
    Case("buffered", with_property("FunctionUrlConfig: {InvokeMode: BUFFERED}"), "does not stream", "Change it to"),
    Case("twice", HELLO + HELLO[HELLO.index("Resources:") :], "is there twice", "Remove one"),
    Case("broken", "a: [", "cannot be parsed", "Fix it first"),
    Case("two documents", HELLO + "---\na: b\n", "cannot be parsed", "Fix it first"),
    Case("list", "- a", "must hold a mapping", "as a SAM template does"),
    Case("recursive", HELLO + "  A: &a\n    B: *a\n", "contains itself", "Write it out"),
)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_refusal(case: Case) -> None:
    with pytest.raises(Refusal) as refusal:
        adopt(case.text)
    assert case.reason in str(refusal.value)
    assert case.remedy in str(refusal.value)


def test_one_of_several_must_be_named() -> None:
    text = replaced(HELLO, FUNCTION, other("Properties:", "  Runtime: python3.13") + FUNCTION)
    with pytest.raises(Refusal, match=r"has 2 functions .* It has: OtherFunction, HelloFunction"):
        adopt(text, function="")


def test_only_function_needs_no_name() -> None:
    assert adopt(HELLO, function="").text == adopt(HELLO).text
