"""What the workflows, `pipeline/` and the template must agree on, and no linter of this project sees.

Every message names the remedy. A rule about something that is not in the project does not apply.
"""

import functools
import json
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.__main__ import services

PROJECT = Path(__file__).parent.parent
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
BOUNDARY = "arn:aws:iam::123456789012:policy/boundary"
# IAM's name of a service, where it is not that of CloudFormation's types.
SERVICES = {
    "apigatewayv2": "apigateway",
    "elasticloadbalancingv2": "elasticloadbalancing",
    "serverless::api": "apigateway",
    "serverless::httpapi": "apigateway",
    "serverless::simpletable": "dynamodb",
    "serverless::statemachine": "states",
    "stepfunctions": "states",
}
# Services that the function's role reads from, and actions that make what SAM adds for a function's events.
READ = {"DocumentDB": "rds", "DynamoDB": "dynamodb", "Kinesis": "kinesis", "MQ": "mq", "MSK": "kafka", "SQS": "sqs"}
CREATED = {
    **dict.fromkeys(("Api", "HttpApi"), "apigateway:POST"),
    **dict.fromkeys(("CloudWatchEvent", "EventBridgeRule", "Schedule"), "events:PutRule"),
    **{"CloudWatchLogs": "logs:PutSubscriptionFilter", "IoTRule": "iot:CreateTopicRule"},
    **{"SNS": "sns:Subscribe", "ScheduleV2": "scheduler:CreateSchedule"},
}


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's tags: `!Ref Name` is `{"Ref": "Name"}`."""


def _tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.SequenceNode):
        return {tag: loader.construct_sequence(node, deep=True)}
    if isinstance(node, yaml.MappingNode):
        return {tag: loader.construct_mapping(node, deep=True)}
    return {tag: str(node.value)}


Loader.add_multi_constructor("!", _tagged)


@functools.cache
def load(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    return found


TEMPLATE = load(PROJECT / "template.yaml")
ROLES = load(PROJECT / "pipeline" / "oidc.yaml")


def resolved(value: Any, parameters: dict[str, str]) -> Any:
    """Return a value of the template with its conditions decided for these parameters; None for `AWS::NoValue`."""
    if isinstance(value, dict) and len(value) == 1:
        [(kind, inner)] = value.items()
        match kind.removeprefix("Fn::"):
            case "Ref":
                return None if inner == "AWS::NoValue" else parameters.get(inner, value)
            case "If":
                return resolved(inner[1 if holds(TEMPLATE["Conditions"][inner[0]], parameters) else 2], parameters)
    return value


def holds(condition: Any, parameters: dict[str, str]) -> bool:
    """Return whether a condition of the template holds."""
    [(kind, inner)] = condition.items()
    match kind.removeprefix("Fn::"):
        case "Equals":
            return bool(resolved(inner[0], parameters) == resolved(inner[1], parameters))
        case "Not":
            return not holds(inner[0], parameters)
        case "And":
            return all(holds(part, parameters) for part in inner)
        case "Or":
            return any(holds(part, parameters) for part in inner)
        case "Condition":
            return holds(TEMPLATE["Conditions"][inner], parameters)
    raise ValueError(f"unsupported condition {kind}")


def parameters(**given: str) -> dict[str, str]:
    """Return the template's parameters: defaults, and what the pipeline sets."""
    declared = TEMPLATE.get("Parameters") or {}
    return {name: str(of.get("Default", "")) for name, of in declared.items()} | given


def strings(value: Any) -> Iterator[str]:
    """Yield all texts in a value, keys excluded."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def expressions(value: Any, context: str) -> set[tuple[str, ...]]:
    """Return what follows `context.` in the expressions of a value, split at the dots."""
    found = (re.findall(rf"(?<![\w.]){context}\.([\w.-]+)", text) for text in strings(value))
    return {tuple(name.split(".")) for names in found for name in names}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_names_exist(path: Path) -> None:
    # https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax
    # GitHub takes an unknown name for an empty text, so that a step does the wrong thing instead of failing.
    workflow = load(path)
    jobs = workflow["jobs"]
    called = workflow[True].get("workflow_call") or {}
    inputs = set(called.get("inputs") or {})
    for name, *_ in expressions(workflow, "inputs"):
        assert name in inputs, f"{path.name}: inputs.{name} is not declared; declare it below workflow_call"
    for name, *rest in expressions(called, "jobs"):
        assert name in jobs, f"{path.name}: an output reads jobs.{name}, which is not a job of this workflow"
        assert rest[-1] in outputs(jobs[name]), f"{path.name}: the job {name} has no output {rest[-1]}"
    for key, job in jobs.items():
        needs = listed(job.get("needs"))
        assert set(needs) <= jobs.keys(), f"{path.name}: {key} needs {needs}; correct the names of the jobs"
        for name, *rest in expressions(job, "needs"):
            assert name in needs, f"{path.name}: {key} reads needs.{name}; add {name} to its needs"
            if rest[:1] == ["outputs"]:
                assert rest[1] in outputs(jobs[name]), f"{path.name}: the job {name} has no output {rest[1]}"
        steps = {step.get("id"): step for step in job.get("steps", [])}
        for name, *rest in expressions(job, "steps"):
            assert name in steps, f"{path.name}: {key} reads steps.{name}; give that step this id"
            if rest[:1] == ["outputs"] and "run" in steps[name]:
                written = re.search(rf"\b{rest[1]}(=|<<)", steps[name]["run"])
                assert written, f"{path.name}: the step {name} writes no output {rest[1]}"


def called_file(job: dict[str, Any]) -> Path:
    """Return the file of the workflow that a job calls."""
    found: Path = PROJECT / ".github" / "workflows" / job["uses"].rpartition("/")[2]
    assert found.is_file(), f"{job['uses']} does not exist; correct the name of the called workflow"
    return found


def outputs(job: dict[str, Any]) -> set[str]:
    """Return the names of a job's outputs, or those of the workflow that it calls."""
    if "uses" in job:
        return set(load(called_file(job))[True]["workflow_call"].get("outputs") or {})
    return set(job.get("outputs") or {})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_called_workflows_get_inputs(path: Path) -> None:
    # https://docs.github.com/en/actions/reference/workflows-and-actions/reusing-workflow-configurations
    levels = {"none": 0, "read": 1, "write": 2}
    for key, job in load(path)["jobs"].items():
        if not str(job.get("uses", "")).startswith(("$/", "./")):
            continue
        file = called_file(job)
        declared = load(file)[True]["workflow_call"].get("inputs") or {}
        given = set(job.get("with") or {})
        assert given <= declared.keys(), f"{path.name}: {file.name} has no input {given - declared.keys()}"
        required = {name for name, of in declared.items() if of.get("required")}
        assert required <= given, f"{path.name}: {key} must give {file.name} the inputs {required - given}"
        granted = job.get("permissions") or {}
        for name, inner in load(file)["jobs"].items():
            for scope, level in (inner.get("permissions") or {}).items():
                enough = levels[granted.get(scope, "none")] >= levels[level]
                assert enough, f"{path.name}: {key} must have `{scope}: {level}` for the job {name} of {file.name}"


def test_workflow_variables_are_set() -> None:
    code = (PROJECT / "pipeline" / "__main__.py").read_text(encoding="utf-8")
    for path in WORKFLOWS:
        for name, *_ in expressions(load(path), "vars"):
            # You may set PARAMETERS yourself.
            assert f'"{name}"' in code or name == "PARAMETERS", (
                f"{path.name}: `make pipeline` sets no variable {name}; correct the name"
            )


def test_workflow_commands_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for path in WORKFLOWS:
        for job in load(path)["jobs"].values():
            for step in job.get("steps", []):
                for target in re.findall(r"^\s*make ([\w-]+)", str(step.get("run", "")), re.MULTILINE):
                    assert target in targets, f"{path.name}: the Makefile has no target {target}"


def test_outputs_show_the_urls() -> None:
    # environment.yml tests every output whose name ends with Url, and shows the first one.
    found = {name: of["Value"] for name, of in (TEMPLATE.get("Outputs") or {}).items() if name.endswith("Url")}
    text = json.dumps(found)
    for kind, value in (
        ("AWS::Lambda::Url", r"{name}\.FunctionUrl"),
        ("AWS::CloudFront::Distribution", r"https://\$\{{{name}\.DomainName\}}"),
        ("AWS::Serverless::Api", r"https://\$\{{{name}\}}\.execute-api\."),
    ):
        for name, of in TEMPLATE["Resources"].items():
            if of["Type"] == kind and (of.get("Properties") or {}).get("InvokeMode") == "BUFFERED":
                tested = re.search(value.format(name=name), text)
                assert not tested, f"{name}: it does not stream; let the name of its output not end with Url"
            elif of["Type"] == kind:
                shown = re.search(value.format(name=name), text)
                assert shown, f"{name}: add an output that ends with Url for the smoke test, with the URL as its value"
    for name, of in found.items():
        address = json.dumps(of)
        url = "https://" in address or "FunctionUrl" in address
        assert url, f"{name}: the smoke test calls every output that ends with Url; rename it, or let it be a URL"


def test_smoke_event_is_an_event() -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    event = settings.get("tool", {}).get("pipeline", {}).get("smoke-event")
    assert event, 'set smoke-event below [tool.pipeline] in pyproject.toml, for example "events/get.json"'
    # The workflow reads this line with sed, not as TOML.
    line = re.search(r'^smoke-event = "(.*)"$', (PROJECT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert line, f'write smoke-event = "{event}" on a line of its own, with double quotes'
    path = PROJECT / event
    assert path.is_file(), f"smoke-event names {event}, which does not exist"
    http = (json.loads(path.read_text(encoding="utf-8")).get("requestContext") or {}).get("http")
    assert http, f"{event}: smoke-event must name an event of the function URL, with requestContext.http"


def test_samconfig_names_the_project() -> None:
    samconfig = tomllib.loads((PROJECT / "samconfig.toml").read_text(encoding="utf-8"))
    found = samconfig["default"]["global"]["parameters"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", found.get("stack_name", "")), "samconfig.toml: set stack_name"
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+-\d+", found.get("region", "")), "samconfig.toml: set region, as us-east-1"
    assert "pipeline" not in samconfig, "samconfig.toml: rename [pipeline]: the workflows' deployments would use it"


@pytest.mark.parametrize("given", ["", BOUNDARY], ids=["by hand", "by the pipeline"])
def test_roles_have_the_boundary(given: str) -> None:
    # The pipeline may create no role without it, and a deployment by hand has none.
    declared = TEMPLATE.get("Parameters") or {}
    assert "PermissionsBoundary" in declared, "declare the parameter PermissionsBoundary, which the pipeline passes"
    for name, of in TEMPLATE["Resources"].items():
        properties = of.get("Properties") or {}
        if of["Type"] == "AWS::IAM::Role" or (of["Type"] == "AWS::Serverless::Function" and "Role" not in properties):
            found = resolved(properties.get("PermissionsBoundary"), parameters(PermissionsBoundary=given))
            remedy = "PermissionsBoundary: !If [HasPermissionsBoundary, !Ref PermissionsBoundary, !Ref AWS::NoValue]"
            assert (found or "") == given, f"{name}: set {remedy}, and let the condition be !Not [!Equals [..., '']]"
    for name, _, properties in events("ScheduleV2"):
        found = resolved(properties.get("PermissionsBoundary"), parameters(PermissionsBoundary=given))
        assert "RoleArn" in properties or (found or "") == given, f"{name}: set PermissionsBoundary as for the function"


def test_production_is_deployed_in_steps() -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/automating-updates-to-serverless-apps.html
    for name, of in TEMPLATE["Resources"].items():
        preference = (of.get("Properties") or {}).get("DeploymentPreference")
        if preference:
            kind = resolved(preference.get("Type"), parameters(Stage="production"))
            assert kind not in (None, "AllAtOnce"), f"{name}: {kind} in production; let Stage = production be gradual"


def deployed(value: Any, used: dict[str, str]) -> Any:
    """Return a value of oidc.yaml without what `make pipeline` leaves out, since the template does not use it."""
    if isinstance(value, list):
        return [deployed(item, used) for item in value]
    if not isinstance(value, dict):
        return value
    match value.get("If"):
        case [str(condition), then, otherwise] if condition.removeprefix("Uses") in used:
            return deployed(then if used[condition.removeprefix("Uses")] == "yes" else otherwise, used)
    return {key: deployed(item, used) for key, item in value.items()}


def allowed(section: str) -> set[str]:
    """Return the actions that a resource of oidc.yaml allows, once `make pipeline` has deployed it."""
    used = services((PROJECT / "template.yaml").read_text(encoding="utf-8"))
    found = strings(deployed(ROLES["Resources"][section], used))
    return {text for text in found if re.fullmatch(r"[a-z0-9-]+:[\w*]+", text)}


def events(kind: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, type and properties of each event of the functions; of those of one type, if it is given."""
    for name, of in TEMPLATE["Resources"].items():
        found = (of.get("Properties") or {}).get("Events") if of["Type"] == "AWS::Serverless::Function" else None
        for key, event in (found or {}).items():
            if kind in ("", event["Type"]):
                yield f"{name}: event {key}", event["Type"], event.get("Properties") or {}


def test_pipeline_may_connect_events() -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-property-function-eventsource.html
    may_create = allowed("CloudFormationRole")
    may_read = {action.partition(":")[0] for action in allowed("Boundary")}
    for name, kind, _ in events():
        needed = CREATED.get(kind)
        remedy = "in pipeline/oidc.yaml, and run `make pipeline`"
        assert needed is None or any(fnmatchcase(needed, pattern) for pattern in may_create), (
            f"{name}: the pipeline may not call {needed}; allow it in CloudFormationRole {remedy}"
        )
        source = READ.get(kind)
        assert source is None or source in may_read, (
            f"{name}: the function may not read from {source}; allow it in Boundary {remedy}"
        )


def test_schedules_are_named_after_the_stack() -> None:
    # Without a name, SAM calls a schedule as the event is called, in each stack.
    for name, _, properties in events("ScheduleV2"):
        own = "AWS::StackName" in json.dumps(properties.get("Name", ""))
        assert own or properties.get("OmitName") is True, f"{name}: set OmitName: true; the pipeline's roles go by name"


def test_pipeline_may_create_resources() -> None:
    # https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
    found = (action.split(":") for action in allowed("CloudFormationRole"))
    services = {service for service, action in found if not action.startswith(("Get", "List", "Describe"))}
    for name, of in TEMPLATE["Resources"].items():
        kind = of["Type"].removeprefix("AWS::").lower()
        service = SERVICES.get(kind) or SERVICES.get(kind.partition("::")[0]) or kind.partition("::")[0]
        if of["Type"].startswith("AWS::") and service not in ("serverless", "cloudformation"):
            remedy = "allow it in CloudFormationRole in pipeline/oidc.yaml, and run `make pipeline`"
            assert service in services, f"{name}: the pipeline may not use {service}; {remedy}"


def test_boundary_allows_the_actions() -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_boundaries.html
    limit = allowed("Boundary")
    for name, of in TEMPLATE["Resources"].items():
        policies = (of.get("Properties") or {}).get("Policies")
        inline = [policy for policy in listed(policies) if isinstance(policy, dict)]
        statements = [statement for policy in inline for statement in listed(policy.get("Statement"))]
        for action in (action for statement in statements for action in listed(statement.get("Action"))):
            known = any(fnmatchcase(action, pattern) or fnmatchcase(pattern, action) for pattern in limit)
            assert known, f"{name}: add {action} to Boundary in pipeline/oidc.yaml, and run `make pipeline`"


def test_roles_trust_exact_subjects() -> None:
    # https://docs.github.com/en/actions/how-tos/secure-your-work/security-harden-deployments/oidc-in-aws
    for name, of in ROLES["Resources"].items():
        for statement in listed((of.get("Properties") or {}).get("AssumeRolePolicyDocument", {}).get("Statement")):
            if "sts:AssumeRoleWithWebIdentity" in listed(statement["Action"]):
                exact = (statement.get("Condition") or {}).get("StringEquals") or {}
                for claim in ("aud", "sub"):
                    key = f"token.actions.githubusercontent.com:{claim}"
                    assert key in exact, f"{name}: compare {key} with StringEquals, or other repositories get in"
                    assert "*" not in json.dumps(exact[key]), f"{name}: spell {claim} out, without wildcards"
