"""An evaluator of IAM policies and of the CloudFormation template that contains them.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
Unsupported policy elements raise instead of being ignored.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from local.template import TemplateLoader

Policy = dict[str, Any]
NOTHING = object()
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::NoValue": NOTHING,
}


def allows(policies: Iterable[Policy], action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """Return whether the policies of one identity allow `action` on `resource`, for a request with this context."""
    effects = {
        statement["Effect"]
        for policy in policies
        for statement in statements(policy)
        if _any_like(action.lower(), [pattern.lower() for pattern in listed(statement["Action"])])
        and _any_like(resource, listed(statement["Resource"]))
        and _holds(statement.get("Condition", {}), context or {})
    }
    return effects == {"Allow"}


class Reach:
    """What policies allow, whatever the action: prepared for many resources."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        """Only statements that allow something count."""
        self._statements = [
            (statement["Sid"], listed(statement["Resource"]), statement.get("Condition", {}))
            for policy in policies
            for statement in statements(policy)
            if statement["Effect"] == "Allow"
        ]
        self._patterns = {pattern for _, resources, _ in self._statements for pattern in resources if pattern != "*"}

    def of(self, resource: str, context: Mapping[str, str]) -> list[str]:
        """Return the Sids of the statements that allow any action on `resource`, other than on `*`."""
        if not _any_like(resource, self._patterns):
            return []
        return [
            sid
            for sid, resources, condition in self._statements
            if _any_like(resource, [pattern for pattern in resources if pattern != "*"]) and _holds(condition, context)
        ]


def admits(trust: Policy, action: str, principal: dict[str, str], context: Mapping[str, str] | None = None) -> bool:
    """Return whether a role's trust policy lets `principal` assume the role."""
    effects = {
        statement["Effect"]
        for statement in statements(trust)
        if action in listed(statement["Action"])
        and statement["Principal"] == principal
        and _holds(statement.get("Condition", {}), context or {})
    }
    return effects == {"Allow"}


def statements(policy: Policy) -> list[Policy]:
    """Return the statements of a policy. Keys that invert a meaning, such as `NotAction`, are not supported."""
    found: list[Policy] = listed(policy["Statement"])
    for statement in found:
        if unknown := statement.keys() - {"Sid", "Effect", "Action", "Resource", "Principal", "Condition"}:
            raise ValueError(f"unsupported keys: {unknown}")
    return found


def listed(value: Any) -> list[Any]:
    """Return a value that may stand alone as a list."""
    return value if isinstance(value, list) else [value]


def _any_like(value: str, patterns: Iterable[str]) -> bool:
    return any(_like(value, pattern) for pattern in patterns)


def _like(value: str, pattern: str) -> bool:
    literal = pattern.partition("*")[0].partition("?")[0]
    return value.startswith(literal) and _expression(pattern).fullmatch(value) is not None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    # Only `*` and `?` are special. Unlike in a shell, both match colons and slashes too.
    expression = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.compile(expression, re.DOTALL)


def _holds(condition: dict[str, dict[str, Any]], context: Mapping[str, str]) -> bool:
    known = {key.lower(): value for key, value in context.items()}
    return all(
        _compare(operator, known.get(key.lower()), listed(expected))
        for operator, tests in condition.items()
        for key, expected in tests.items()
    )


def _compare(operator: str, actual: str | None, expected: list[Any]) -> bool:
    match operator:
        case "StringEquals":  # an absent key equals nothing
            return actual is not None and actual in expected
        case "StringLike" | "ArnLike":
            return actual is not None and _any_like(actual, expected)
        case "StringLikeIfExists":
            return actual is None or _any_like(actual, expected)
        case "Bool":
            return actual is not None and actual.lower() in [str(value).lower() for value in expected]
        case "Null":
            return str(actual is None).lower() in [str(value).lower() for value in expected]
        case _:
            raise ValueError(f"unsupported operator: {operator}")


@functools.cache
def _parsed(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), TemplateLoader)


class Template:
    """A CloudFormation template whose intrinsic functions are resolved for given parameters."""

    def __init__(self, path: Path, **parameters: str) -> None:
        """Parameters that are not given keep their defaults."""
        self._template = _parsed(path)
        declared = self._template["Parameters"]
        assert parameters.keys() <= declared.keys(), "unknown parameter"
        self._values = {name: value.get("Default") for name, value in declared.items()} | parameters
        assert None not in self._values.values(), "a parameter without a value"

    def resources(self) -> dict[str, Any]:
        """Return type and properties of each resource whose condition holds."""
        found = self._template["Resources"].items()
        return {
            name: {"Type": resource["Type"], "Properties": self.value(resource.get("Properties", {}))}
            for name, resource in found
            if "Condition" not in resource or self._condition(resource["Condition"])
        }

    @functools.cached_property
    def _resources(self) -> dict[str, Any]:
        return self.resources()

    def policies(self, role: str) -> list[Policy]:
        """Return the policies of a role: the inline ones, and the managed ones of the same template."""
        resources = self._resources
        properties = resources[role]["Properties"]
        shared = [resources[arn.rpartition(":")[2]]["Properties"] for arn in properties.get("ManagedPolicyArns", [])]
        return [policy["PolicyDocument"] for policy in (*properties["Policies"], *shared)]

    def trust(self, role: str) -> Policy:
        """Return the trust policy of a role."""
        trust: Policy = self._resources[role]["Properties"]["AssumeRolePolicyDocument"]
        return trust

    def value(self, value: Any) -> Any:
        """Return a value with its intrinsic functions resolved."""
        if isinstance(value, list):
            return [inner for inner in map(self.value, value) if inner is not NOTHING]
        if not isinstance(value, dict):
            return value
        match value:
            case {"Ref": name}:
                known = PSEUDO | self._values
                return known[name] if name in known else self._name(name)
            case {"GetAtt": target}:
                return self._name(target)
            case {"Sub": str(text)}:
                return self._substitute(text, {})
            case {"Sub": [text, names]}:
                return self._substitute(text, self.value(names))
            case {"If": [condition, true, false]}:
                return self.value(true if self._condition(condition) else false)
            case {"Select": [index, values]}:
                return self.value(values)[int(index)]
            case {"Split": [mark, text]}:
                return self.value(text).split(mark)
        computed = {key: self.value(inner) for key, inner in value.items()}
        return {key: inner for key, inner in computed.items() if inner is not NOTHING}

    def _substitute(self, text: str, names: dict[str, str]) -> str:
        return re.sub(r"\$\{([\w.:]+)\}", lambda found: str(names.get(found[1]) or self._plain(found[1])), text)

    def _plain(self, name: str) -> Any:
        return self.value({"GetAtt": name} if "." in name else {"Ref": name})

    def _name(self, target: str) -> str:
        # A placeholder for the name or ARN that CloudFormation would assign.
        logical = target.removesuffix(".Arn")
        assert logical in self._template["Resources"], f"unknown resource {logical}"
        return f"arn:aws:::{logical}"

    def _condition(self, condition: Any) -> bool:
        match condition:
            case str(name):
                return self._condition(self._template["Conditions"][name])
            case {"Condition": name}:
                return self._condition(name)
            case {"Equals": [one, other]}:
                return bool(self.value(one) == self.value(other))
            case {"Not": [inner]}:
                return not self._condition(inner)
            case {"Or": inner}:
                return any(map(self._condition, inner))
        raise ValueError(f"unsupported condition: {condition}")
