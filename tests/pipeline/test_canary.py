"""`deployment: canary` after SAM's transform. CodeDeploy runs on AWS only, so these tests shift no traffic."""

from __future__ import annotations

import pytest
from tests.helpers.infrastructure import assert_clean, transformed
from tests.helpers.support import Answers, Bake

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
DOORS: list[Answers] = [
    {},
    {"url_auth": "NONE"},
    {"front_door": "cloudfront"},
    {"front_door": "rest-api", "observability": "full"},
    {"runtime": "container", "deploy_pipeline": "none"},
    {"runtime": "provided.al2023"},
]


@pytest.mark.parametrize("answers", DOORS, ids=lambda answers: ",".join(answers.values()) or "default")
def test_url_belongs_to_the_alias(answers: Answers, bake: Bake) -> None:
    """Callers reach versions through the alias alone. Template and transform pass the linters."""
    project = bake(deployment="canary", **answers)
    assert_clean(project, "us-east-1")
    resources = transformed(project)["Resources"]
    url = resources["StreamUrl"]
    assert url["Properties"]["Qualifier"] == resources["StreamFunctionAliaslive"]["Properties"]["Name"] == "live"
    assert url["DependsOn"] == "StreamFunctionAliaslive"
    granted = [value["Properties"] for value in resources.values() if value["Type"] == "AWS::Lambda::Permission"]
    assert [permission["FunctionName"] for permission in granted] == [{"Ref": "StreamFunctionAliaslive"}] * len(granted)
    assert bool(granted) == bool(answers.get("url_auth") == "NONE" or "front_door" in answers)


def test_alarms_roll_production_back(bake: Bake) -> None:
    """CodeDeploy moves the alias in steps, and back if invocations fail or streams fail after their first byte."""
    template = transformed(bake(deployment="canary"))
    resources = template["Resources"]
    update = resources["StreamFunctionAliaslive"]["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
    assert update == {
        "ApplicationName": {"Ref": "ServerlessDeploymentApplication"},
        "DeploymentGroupName": {"Ref": "StreamFunctionDeploymentGroup"},
    }
    group = resources["StreamFunctionDeploymentGroup"]["Properties"]
    canary, at_once = (
        {"Fn::Sub": ["CodeDeployDefault.Lambda${ConfigName}", {"ConfigName": name}]}
        for name in ("Canary10Percent5Minutes", "AllAtOnce")
    )
    assert group["DeploymentConfigName"] == {"Fn::If": ["IsProduction", canary, at_once]}
    assert template["Conditions"]["IsProduction"] == {"Fn::Equals": [{"Ref": "Stage"}, "production"]}
    assert group["ServiceRoleArn"] == {"Fn::GetAtt": ["StreamDeploymentRole", "Arn"]}
    assert group["AutoRollbackConfiguration"]["Events"] == [
        "DEPLOYMENT_FAILURE",
        "DEPLOYMENT_STOP_ON_ALARM",
        "DEPLOYMENT_STOP_ON_REQUEST",
    ]
    alarms = [alarm["Name"]["Ref"] for alarm in group["AlarmConfiguration"]["Alarms"]]
    metrics = {resources[name]["Properties"]["MetricName"]: resources[name]["Properties"] for name in alarms}
    assert metrics.keys() == {"Errors", "MidStreamErrors"}
    namespace = resources["StreamFunction"]["Properties"]["Environment"]["Variables"][
        "STREAMING_RUNTIME_METRICS_NAMESPACE"
    ]
    assert metrics["MidStreamErrors"]["Namespace"] == namespace
    assert metrics["MidStreamErrors"]["Dimensions"] == [{"Name": "FunctionName", "Value": {"Ref": "StreamFunction"}}]
    for alarm in metrics.values():
        assert alarm["Period"] < 300, "the alarm must go off while a tenth of the traffic is on the new version"


def test_every_role_has_the_boundary(bake: Bake) -> None:
    """The pipeline may create no other roles, so one without it would fail every deployment."""
    for answers in DOORS[:4]:
        resources = transformed(bake(deployment="canary", **answers))["Resources"]
        roles = {name: value["Properties"] for name, value in resources.items() if value["Type"] == "AWS::IAM::Role"}
        assert roles.keys() == {"StreamFunctionRole", "StreamDeploymentRole"}
        for role in roles.values():
            assert role["PermissionsBoundary"] == {
                "Fn::If": ["HasPermissionsBoundary", {"Ref": "PermissionsBoundary"}, {"Ref": "AWS::NoValue"}]
            }


def test_all_at_once_has_no_canary(bake: Bake) -> None:
    """It has neither alias nor CodeDeploy nor parameter."""
    template = transformed(bake())
    assert "StreamFunctionAliaslive" not in template["Resources"]
    assert not [value for value in template["Resources"].values() if value["Type"].startswith("AWS::CodeDeploy::")]
    assert template["Parameters"].keys() == {"PermissionsBoundary"}
    assert "Parameters" not in transformed(bake(deploy_pipeline="none"))
