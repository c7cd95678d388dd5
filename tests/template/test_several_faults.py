"""Faults in the second function alone: the rules of a project catch each, and name what is wrong."""

import shutil
from pathlib import Path

import pytest
from tests.helpers.several import add_functions
from tests.helpers.support import Bake, pytest_of, run
from tests.template.test_planted_faults import HARNESS, caught_by_rules, own_tests

pytestmark = pytest.mark.slow

ANSWERS = {"url_auth": "NONE", "observability": "full", "deployment": "canary"}
PERMISSION = "AdminUrlPermission:\n    Type: AWS::Lambda::Permission\n    Properties:\n"

# Of the text behind `AdminFunction:`: what to replace, by what, and which rule catches it.
FAULTS = {
    "wrapper missing": (
        "          AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap\n",
        "",
        "test_bootstrap_is_the_entry_point",
    ),
    "wrapper elsewhere": ("/var/task/bootstrap", "/opt/bootstrap", "test_bootstrap_is_the_entry_point"),
    "no build target": ("      BuildMethod: makefile\n", "", "test_build_method"),
    "build in another folder": ("ContextPath: .", "ContextPath: admin", "test_build_method"),
    "folder": ("CodeUri: admin/", "CodeUri: administration/", "test_handler_exists"),
    "handler": ("Handler: app.handler", "Handler: app.main", "test_handler_exists"),
    "architecture": ("- arm64", "- arm", "test_architecture"),
    "boundary missing": (
        "      PermissionsBoundary: !If [HasPermissionsBoundary, !Ref PermissionsBoundary, !Ref AWS::NoValue]\n",
        "",
        "test_permissions_boundary",
    ),
    "log of the first function": ("${AWS::StackName}-admin", "${AWS::StackName}", "test_logs"),
    "no permission": ("Action: lambda:InvokeFunctionUrl", "Action: lambda:GetFunction", "test_public_url_permissions"),
    "permission on the first function": (
        f"{PERMISSION}      Action: lambda:InvokeFunctionUrl\n      FunctionName: !Ref AdminFunction.Alias",
        f"{PERMISSION}      Action: lambda:InvokeFunctionUrl\n      FunctionName: !Ref StreamFunction.Alias",
        "test_public_url_permissions",
    ),
    "permission beside the URL": ("      InvokedViaFunctionUrl: true\n", "", "test_public_url_permissions"),
    "URL of the first function": (
        "TargetFunctionArn: !GetAtt AdminFunction.Arn",
        "TargetFunctionArn: !GetAtt StreamFunction.Arn",
        "test_url_permissions_match",
    ),
    "URL beside the alias": ("      Qualifier: live\n", "", "test_alias_exists"),
    "deployment watches the first function": (
        "!Ref AdminCanaryErrorsAlarm",
        "!Ref StreamCanaryErrorsAlarm",
        "test_gradual_deployment",
    ),
    "alarm of the first function": (
        "Value: !Ref AdminFunction\n      Statistic: Sum\n      Period: 60",
        "Value: !Ref StreamFunction\n      Statistic: Sum\n      Period: 60",
        "test_gradual_deployment",
    ),
    "alarm without an effect": (
        "      AlarmActions:\n        - !Ref StreamAlarms\n",
        "",
        "test_alarms_have_an_effect",
    ),
    "threshold in seconds": ("Threshold: 12000", "Threshold: 5", "test_alarms_can_fire"),
    "no alarm on broken streams": (
        "MetricName: MidStreamErrors",
        "MetricName: BytesStreamed",
        "test_alarms_cover_each_function",
    ),
    "namespace": ('METRICS_NAMESPACE: "lambda-stream"', "METRICS_NAMESPACE: other", "test_metrics_exist"),
}


@pytest.fixture(scope="module")
def project(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a second function that has everything that the first one has."""
    copy = shutil.copytree(bake(**ANSWERS), tmp_path_factory.mktemp("several") / "project")
    run("python", "-m", "local.new", "Admin", cwd=copy)
    return copy


def planted(project: Path, old: str, new: str) -> str:
    """Return the template with a fault in all places behind the beginning of the second function."""
    before, start, after = (project / "template.yaml").read_text(encoding="utf-8").partition("  AdminFunction:\n")
    assert old in after, old
    return before + start + after.replace(old, new)


def test_rules_catch_faults_of_the_second_function(project: Path) -> None:
    (project / "planted").mkdir()
    texts = {name: planted(project, old, new) for name, (old, new, _) in FAULTS.items()}
    texts = {"intact": (project / "template.yaml").read_text(encoding="utf-8"), **texts}
    for number, text in enumerate(texts.values()):
        (project / "planted" / f"fault{number:03}").write_text(text, encoding="utf-8")
    imports = "\n".join(f"from tests.{path.stem} import *" for path in (project / "tests").glob("test_template*.py"))
    (project / "tests" / "test_planted.py").write_text(HARNESS.format(imports=imports), encoding="utf-8")
    caught = caught_by_rules(project, [*texts])
    assert caught.pop("intact") == set()
    assert {name: rules for name, rules in caught.items() if FAULTS[name][2] not in rules} == {}


def test_functions_added_by_hand_pass(bake: Bake, tmp_path: Path) -> None:
    """Another Python, flow style and Globals; a plain function behind a queue."""
    mine = add_functions(shutil.copytree(bake(), tmp_path / "mine"))
    pytest_of(mine, "-q", "tests", "--deselect", "tests/test_app.py")


def test_message_names_the_url_and_the_function(project: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(project, tmp_path / "mine", ignore=shutil.ignore_patterns("planted", "test_planted.py"))
    text = planted(project, "          AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap\n", "")
    (mine / "template.yaml").write_text(text, encoding="utf-8")
    status, output = own_tests(mine, "tests/test_template.py")
    assert status == 1
    message = "AdminFunction: set AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap, or nothing streams from AdminUrl"
    assert message in output
