"""Helpers of these tests: adoption without cookiecutter, and what it has to result in."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from adopt.adopting.document import Document
from adopt.adopting.edits import Insertion, remove
from adopt.adopting.plan import Wish, make_plan

#: The function that is adopted where nothing else is said.
FUNCTION = "HelloFunction"


@dataclass
class Adoption:
    """What an adoption made of a template.

    Attributes:
        text: The template afterwards.
        alone: What was inserted for the function.
        shared: What was inserted for all functions.
        scaffolds: What was inserted to hold others.
        notes: What the user is told.
    """

    text: str
    alone: list[Insertion]
    shared: list[Insertion]
    scaffolds: list[Insertion]
    notes: list[str]

    def undo(self, text: str | None = None) -> str:
        """Return the template, or `text`, without all of it."""
        document = Document(self.text if text is None else text, "template.yaml")
        return remove(document, [*self.alone, *self.shared], self.scaffolds)[0]


def adopt(text: str, function: str = FUNCTION, url_auth: str = "AWS_IAM") -> Adoption:
    """Adopt a function of the template with this text."""
    wish = Wish(function, url_auth, "streaming/runtime", "/checkout/runtime")
    plan = make_plan(Document(text, "template.yaml"), wish)
    insertions = plan.editor.insertions
    shared = [one for one in insertions if (*one.path, one.key) in plan.shared]
    scaffolds = [one for one in insertions if one.kind == "scaffold"]
    alone = [one for one in insertions if one not in shared and one not in scaffolds]
    return Adoption(plan.editor.text() if insertions else text, alone, shared, scaffolds, plan.notes)


def expected(before: dict[str, Any], function: str = FUNCTION) -> dict[str, Any]:
    """Return what a template has to mean once a function without a URL is adopted with AWS_IAM."""
    after = deepcopy(before)
    resources = after["Resources"]
    properties = resources[function]["Properties"]
    if "StreamingRuntimeLayer" not in resources:
        layer = {"ContentUri": "streaming/runtime", "RetentionPolicy": "Delete"}
        resources["StreamingRuntimeLayer"] = {"Type": "AWS::Serverless::LayerVersion", "Properties": layer}
    properties["Layers"] = [*(properties.get("Layers") or []), {"Ref": "StreamingRuntimeLayer"}]
    properties["Environment"] = environment = properties.get("Environment") or {}
    environment["Variables"] = variables = environment.get("Variables") or {}
    shared = after.get("Globals", {}).get("Function", {}).get("Environment", {}).get("Variables", {})
    wrapper = variables.get("AWS_LAMBDA_EXEC_WRAPPER", shared.get("AWS_LAMBDA_EXEC_WRAPPER"))
    variables["AWS_LAMBDA_EXEC_WRAPPER"] = "/opt/bootstrap"
    if wrapper is not None:
        variables["STREAMING_RUNTIME_EXEC_WRAPPER"] = wrapper
    has_api = any(event["Type"] == "Api" for event in properties.get("Events", {}).values())
    variables["STREAMING_RUNTIME_BUFFERED_CALLERS"] = "direct rest-api" if has_api else "direct"
    condition = {"Condition": resources[function]["Condition"]} if "Condition" in resources[function] else {}
    url = {"TargetFunctionArn": {"GetAtt": f"{function}.Arn"}, "AuthType": "AWS_IAM", "InvokeMode": "RESPONSE_STREAM"}
    resources[f"{function}Url"] = {"Type": "AWS::Lambda::Url", **condition, "Properties": url}
    after["Outputs"] = {
        **(after.get("Outputs") or {}),
        f"{function}Url": {**condition, "Value": {"GetAtt": f"{function}Url.FunctionUrl"}},
    }
    return after
