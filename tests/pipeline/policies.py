"""What IAM would decide: the policies of a CloudFormation template, evaluated for one request.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
Whatever is not understood raises, so that no test passes because something was passed over.
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
    """Whether the policies of one identity let it do `action` to `resource`, in a request with this context."""
    effects = {
        statement["Effect"]
        for policy in policies
        for statement in statements(policy)
        if _any_like(action.lower(), [pattern.lower() for pattern in listed(statement["Action"])])
        and _any_like(resource, listed(statement["Resource"]))
        and _holds(statement.get("Condition", {}), context or {})
    }
    return effects == {"Allow"}


def admits(trust: Policy, action: str, principal: dict[str, str], context: Mapping[str, str] | None = None) -> bool:
    """Whether a role's trust policy lets `principal` become the role."""
    effects = {
        statement["Effect"]
        for statement in statements(trust)
        if action in listed(statement["Action"])
        and statement["Principal"] == principal
        and _holds(statement.get("Condition", {}), context or {})
    }
    return effects == {"Allow"}


def statements(policy: Policy) -> list[Policy]:
    """The statements of a policy, which have none of the keys that turn a meaning round."""
    found: list[Policy] = listed(policy["Statement"])
    for statement in found:
        if unknown := statement.keys() - {"Sid", "Effect", "Action", "Resource", "Principal", "Condition"}:
            raise ValueError(f"not understood: {unknown}")
    return found


def listed(value: Any) -> list[Any]:
    """A value that may stand alone, as a list."""
    return value if isinstance(value, list) else [value]


def _any_like(value: str, patterns: Iterable[str]) -> bool:
    return any(_like(value, pattern) for pattern in patterns)


def _like(value: str, pattern: str) -> bool:
    # `*` and `?` mean what they do in a shell; nothing else has a meaning, and `*` also takes colons and slashes.
    expression = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _holds(condition: dict[str, dict[str, Any]], context: Mapping[str, str]) -> bool:
    known = {key.lower(): value for key, value in context.items()}
    return all(
        _compare(operator, known.get(key.lower()), listed(expected))
        for operator, tests in condition.items()
        for key, expected in tests.items()
    )


def _compare(operator: str, actual: str | None, expected: list[Any]) -> bool:
    match operator:
        case "StringEquals":  # a key that is absent equals nothing
            return actual is not None and actual in expected
        case "StringLike" | "ArnLike":
            return actual is not None and _any_like(actual, expected)
        case "Bool":
            return actual is not None and actual.lower() in [str(value).lower() for value in expected]
        case "Null":
            return str(actual is None).lower() in [str(value).lower() for value in expected]
        case _:
            raise ValueError(f"not understood: {operator}")


@functools.cache
def _parsed(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), TemplateLoader)


class Template:
    """A CloudFormation template with its parameters: what its resources come to."""

    def __init__(self, path: Path, **parameters: str) -> None:
        """Parameters that are not given have their defaults."""
        self._template = _parsed(path)
        declared = self._template["Parameters"]
        assert parameters.keys() <= declared.keys(), "a parameter that there is not"
        self._values = {name: value.get("Default") for name, value in declared.items()} | parameters
        assert None not in self._values.values(), "a parameter without a value"

    def resources(self) -> dict[str, Any]:
        """Type and properties of each resource whose condition holds."""
        found = self._template["Resources"].items()
        return {
            name: {"Type": resource["Type"], "Properties": self.value(resource.get("Properties", {}))}
            for name, resource in found
            if "Condition" not in resource or self._condition(resource["Condition"])
        }

    def policies(self, role: str) -> list[Policy]:
        """The policies of a role: its own, and those of the template that it shares with others."""
        resources = self.resources()
        properties = resources[role]["Properties"]
        shared = [resources[arn.rpartition(":")[2]]["Properties"] for arn in properties.get("ManagedPolicyArns", [])]
        return [policy["PolicyDocument"] for policy in (*properties["Policies"], *shared)]

    def trust(self, role: str) -> Policy:
        """Who may become a role."""
        trust: Policy = self.resources()[role]["Properties"]["AssumeRolePolicyDocument"]
        return trust

    def value(self, value: Any) -> Any:
        """A value with its intrinsic functions carried out."""
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
        # What stands for a name or an ARN that CloudFormation would give.
        logical = target.removesuffix(".Arn")
        assert logical in self._template["Resources"], f"no resource {logical}"
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
        raise ValueError(f"not understood: {condition}")
