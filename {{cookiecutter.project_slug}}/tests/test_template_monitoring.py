"""Rules for metrics, alarms, dashboards and gradual deployments in `template.yaml`."""

import re
from functools import cache
from typing import Any

from local.aws_limits import AWS_LIMITS
from tests.conftest import PROJECT, Template, listed, mappings, number, variables

LAMBDA_METRICS = AWS_LIMITS["metrics"]["lambda"]["names"]
API_METRICS = AWS_LIMITS["metrics"]["api_gateway"]["names"]
DIMENSIONS = {
    "AWS/Lambda": {"FunctionName", "Resource", "ExecutedVersion", "EventSourceMappingUUID"},
    "AWS/ApiGateway": {"ApiName", "Stage", "Method", "Resource"},
}
# Metrics of failures, which have no data while nobody calls the function.
FAILURES = {"Errors", "Throttles", "Url5xxCount", "Url4xxCount", "5XXError", "4XXError", "MidStreamErrors"}
TIMES = {"TimeToFirstByte", "Duration", "UrlRequestLatency", "Latency", "IntegrationLatency"}
UNITS = {
    **dict.fromkeys(FAILURES | {"Invocations", "ChunksStreamed", "ConcurrentExecutions"}, "Count"),
    **dict.fromkeys(TIMES, "Milliseconds"),
    "BytesStreamed": "Bytes",
}
MOST_FAILURES = 1000
LIMIT = AWS_LIMITS["timeout"]
# What an alarm can start.
ACTIONS = ("AWS::SNS::Topic", "AWS::Lambda::Function", "AWS::Serverless::Function", "AWS::Lambda::Alias")
GRADUAL = AWS_LIMITS["codedeploy"]["gradual"]


def alarms_of(template: Template, function: str) -> dict[str, dict[str, Any]]:
    """Return the alarms on metrics of a function."""
    return {
        name: of
        for name, of in template.of("AWS::CloudWatch::Alarm").items()
        for item in listed(of.get("Dimensions"))
        if item.get("Name") == "FunctionName" and (template.target(item.get("Value")) or [""])[0] == function
    }


def test_metrics_exist(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    folders = {str(template.code(name) or "src") for name in template.functions}
    code = "".join(map(source, sorted(folders))) + source("runtime")
    filtered = [(of.get("MetricNamespace"), of.get("MetricName")) for of in mappings(template.resources)]
    end = "_METRICS_NAMESPACE"
    spaces = {name: {v for k, v in variables(of).items() if k.endswith(end)} for name, of in template.functions.items()}
    for place, space, metric, dimensions in template.metrics():
        function, written = dimensions.get("FunctionName"), f'"{metric}"' in code
        target = template.target(function)
        known = target or not function or template.unknown(function)
        assert known, f"{place}: {function} is not a function of this template; set it to !Ref of one"
        own = spaces[target[0]] if target else set().union(*spaces.values())
        if "ApiName" in dimensions:
            assert (space, metric in API_METRICS) == ("AWS/ApiGateway", True), (
                f"{place}: {space} has no metric {metric}"
            )
            apis = [of.get("Name", "${AWS::StackName}") for of in template.of("AWS::Serverless::Api").values()]
            assert dimensions["ApiName"] in apis, f"{place}: set ApiName to the Name of an API: {apis}"
        elif space == "AWS/Lambda":
            others = dimensions.keys() - {"FunctionName", "Resource", "ExecutedVersion"}
            assert others or metric in LAMBDA_METRICS, f"{place}: {metric} is not one of {LAMBDA_METRICS}"
        elif (written or function or space in own) and (space, metric) not in filtered:
            assert written, f"{place}: neither a function nor runtime/ writes {space} {metric}; correct the names"
            assert space in own or f'"{space}"' in code, f"{place}: set STREAMING_RUNTIME_METRICS_NAMESPACE: {space}"


def test_metric_dimensions(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html#Dimension
    spaces = {str(value) for of in template.functions.values() for value in variables(of).values()}
    stages = {str(of.get("StageName")) for of in template.of("AWS::Serverless::Api").values()}
    for place, space, metric, dimensions in template.metrics():
        wrong = dimensions.keys() - DIMENSIONS.get(space, dimensions.keys())
        assert not wrong, f"{place}: {space} has no dimension {sorted(wrong)}; use {sorted(DIMENSIONS.get(space, ()))}"
        if space in spaces and f'"{metric}"' in source("runtime"):
            found = sorted(dimensions)
            assert found == ["FunctionName"], f"{place}: the runtime writes {metric} by FunctionName, not by {found}"
        if space == "AWS/ApiGateway":
            stage = dimensions.get("Stage")
            exists = stage is None or stage in stages or template.unknown(stage)
            assert exists, f"{place}: set Stage to one of {sorted(stages)}, not {stage}"
        if space == "AWS/Lambda" and "Resource" in dimensions:
            function, _, alias = str(dimensions["Resource"]).partition("}:")
            own = template.target(f"{function.removesuffix('}')}}}")
            exists = own is not None and (not alias or (own[0], alias) in template.aliases)
            assert exists or template.unknown(dimensions["Resource"]), (
                f"{place}: set Resource to !Sub ${{function}}:alias with one of {[*template.aliases]}"
            )


def test_alarms_cover_each_function(template: Template) -> None:
    # A stream that fails after its first byte has the status 200: only the metric of the runtime shows it.
    metrics = {name: {of.get("MetricName") for of in alarms_of(template, name).values()} for name in template.functions}
    for metric in ("Errors", "MidStreamErrors"):
        watched = [name for name, found in metrics.items() if metric in found and template.has_runtime(name)]
        for name, of in template.functions.items():
            writes = "STREAMING_RUNTIME_METRICS_NAMESPACE" in variables(of)
            covered = not watched or not writes or metric in metrics[name]
            assert covered, f"{name}: add an alarm on {metric}, as {watched[0]} has one"


@cache
def source(folder: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in (PROJECT / folder).rglob("*.py"))


def test_alarms_can_fire(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html
    for function, properties in template.functions.items():
        timeout = number(properties.get("Timeout", LIMIT["default"]), LIMIT["most"]) * 1000
        for name, of in alarms_of(template, function).items() if template.has_runtime(function) else ():
            metric, operator = str(of.get("MetricName")), str(of.get("ComparisonOperator"))
            unit = of.get("Unit", UNITS.get(metric))
            assert unit == UNITS.get(metric, unit), f"{name}: {metric} is in {UNITS[metric]}; remove Unit: {unit}"
            if metric not in FAILURES | TIMES:
                continue
            threshold = number(of.get("Threshold"), 1)
            above = operator in ("GreaterThanThreshold", "GreaterThanOrEqualToThreshold")
            assert above, f"{name}: set ComparisonOperator: GreaterThanThreshold, not {operator}"
            missing = of.get("TreatMissingData", "missing")
            assert missing == "notBreaching", f"{name}: set TreatMissingData: notBreaching; idle is not a failure"
            if metric in TIMES:
                possible = 100 <= threshold < timeout
                assert possible, f"{name}: set Threshold in milliseconds, from 100 to the timeout's {timeout:g}"
            else:
                least = 0 if operator == "GreaterThanThreshold" else 1
                possible = least <= threshold <= MOST_FAILURES
                assert possible, f"{name}: set Threshold from {least} to {MOST_FAILURES}, or it fires always or never"
                assert of.get("Statistic") == "Sum", f"{name}: set Statistic: Sum, to count failures"


def test_alarms_have_an_effect(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-actions.html
    attached = str([of.get("DeploymentPreference") for of in template.functions.values()])
    composite = str(template.of("AWS::CloudWatch::CompositeAlarm"))
    for name, of in template.of("AWS::CloudWatch::Alarm").items():
        for action in listed(of.get("AlarmActions")):
            kind = template.resources.get(str(action)[2:-1], {}).get("Type", ACTIONS[0])
            assert kind in ACTIONS, f"{name}: set AlarmActions to !Ref of an AWS::SNS::Topic, not of an {kind}"
    functions = [name for name in template.functions if template.has_runtime(name)]
    for name, of in {name: of for function in functions for name, of in alarms_of(template, function).items()}.items():
        acts = bool(of.get("AlarmActions")) and str(of.get("ActionsEnabled", True)).lower() == "true"
        named = f"${{{name}" in attached or name in composite
        assert acts or named, f"{name}: nothing happens when it fires; set AlarmActions, or attach it to the deployment"


def test_gradual_deployment(template: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/automating-updates-to-serverless-apps.html
    staged = "Stage" in template.parameters
    production = template.deployed(**({"Stage": "production"} if staged else {}))
    for name in template.functions:
        preference = production[name]["Properties"].get("DeploymentPreference") or {}
        kind = str(preference.get("Type", "AllAtOnce"))
        valid = kind in GRADUAL or kind == "AllAtOnce" or kind.startswith("$")
        assert valid, f"{name}: {kind} is not a type of deployment; use one such as Canary10Percent5Minutes"
        enabled = str(preference.get("Enabled", True)).lower() != "false"
        assert enabled, f"{name}: remove Enabled: false from DeploymentPreference, or all traffic moves immediately"
        if staged and isinstance((template.functions[name].get("DeploymentPreference") or {}).get("Type"), dict):
            assert kind != "AllAtOnce", f"{name}: let the type be gradual where Stage is production"
            for stage in ("staging", "preview", "development"):
                elsewhere = template.deployed(Stage=stage)[name]["Properties"]["DeploymentPreference"]
                quick = elsewhere.get("Type") == "AllAtOnce"
                assert quick, f"{name}: let the type be AllAtOnce where Stage is {stage}"
        minutes = sum(map(int, re.findall(r"(\d+)Minute", kind)))
        for alarm in listed(preference.get("Alarms")):
            of = (production.get(str(alarm)[2:-1]) or {}).get("Properties") or {}
            seconds = number(of.get("Period", 60), 60) * number(of.get("EvaluationPeriods", 1), 1)
            soon = seconds <= minutes * 60 or not minutes
            called = [template.target(item.get("Value")) for item in listed(of.get("Dimensions"))]
            own = [target[0] for target in called if target]
            assert set(own) <= {name}, f"{name}: {alarm} is an alarm of {own[0]}; attach one of {name}"
            assert soon, f"{alarm}: set Period and EvaluationPeriods to at most {minutes} minutes, or it fires too late"
        role = production.get(str(preference.get("Role")).partition(".")[0][2:].rstrip("}"))
        attached = str((role or {}).get("Properties", {}))
        managed = not role or "AWSCodeDeployRoleForLambda" in attached or "codedeploy:" in attached
        assert managed, f"{preference.get('Role')}: attach the policy AWSCodeDeployRoleForLambdaLimited"
        for statement in mappings((role or {}).get("Properties", {}).get("AssumeRolePolicyDocument")):
            if "Principal" in statement:
                service = (statement.get("Principal") or {}).get("Service")
                assert "codedeploy.amazonaws.com" in listed(service), (
                    f"{preference['Role']}: let Principal be Service: codedeploy.amazonaws.com, not {service}"
                )
