"""Rules for the roles and policies in `template.yaml`."""

import re
from fnmatch import fnmatch

from tests.conftest import PROJECT, Template, listed, mappings, variables

# https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
WITHOUT_RESOURCES = ["cloudwatch:PutMetricData", "ec2:*NetworkInterface*", "ec2:Describe*", "xray:*"]
STREAM_ACTION = "bedrock:InvokeModelWithResponseStream"
BOUNDARY = "arn:aws:iam::123456789012:policy/boundary"


def test_least_privilege(template: Template) -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/best-practices.html#grant-least-privilege
    for name, resource in template.resources.items():
        for of in mappings(resource):
            # With a principal it is the policy of a resource, in which * may stand for that resource.
            if of.get("Effect") == "Allow" and not {"Principal", "NotPrincipal"} & of.keys():
                actions = list(map(str, listed(of.get("Action"))))
                wild = "NotAction" in of or [action for action in actions if re.fullmatch(r"([\w-]+:)?\*", action)]
                assert not wild, f"{name}: list the actions that it needs, instead of {wild}"
                narrow = all(any(fnmatch(action, known) for known in WITHOUT_RESOURCES) for action in actions)
                anything = "*" in listed(of.get("Resource")) and not narrow and "Condition" not in of
                assert not anything, f"{name}: list the resources of {actions}, instead of *"
        managed = str((resource.get("Properties") or {}).get("Policies"))
        assert "AdministratorAccess" not in managed, f"{name}: list what it may do, instead of everything"


def test_permissions_boundary(template: Template) -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_boundaries.html
    if "PermissionsBoundary" in template.parameters:
        limited, free = template.deployed(PermissionsBoundary=BOUNDARY), template.deployed(PermissionsBoundary="")
        for name, of in limited.items():
            if of["Type"] in ("AWS::IAM::Role", "AWS::Serverless::Function") and "Role" not in of["Properties"]:
                found = [resources[name]["Properties"].get("PermissionsBoundary") for resources in (limited, free)]
                assert found == [BOUNDARY, None], (
                    f"{name}: set PermissionsBoundary: !If [HasPermissionsBoundary, !Ref PermissionsBoundary, "
                    f"!Ref AWS::NoValue], and let the condition hold where the parameter is set"
                )


def test_bedrock_policy(template: Template) -> None:
    # https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-prereq.html
    for name, of in template.functions.items():
        folder = template.code(name) or PROJECT / "src"
        code = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
        statements = [item for item in mappings(of.get("Policies")) if "bedrock:" in str(item.get("Action"))]
        allowed = [item for item in statements if item.get("Effect") == "Allow"]
        actions = [str(action) for item in allowed for action in listed(item.get("Action"))]
        model = str(variables(of).get("MODEL_ID", "*"))
        if statements and "converse_stream(" in code:
            streams = any(fnmatch(STREAM_ACTION, action) for action in actions)
            assert streams, f"{name}: allow {STREAM_ACTION}, which ConverseStream requires, not {actions}"
        arns = [str(arn) for item in allowed for arn in listed(item.get("Resource"))]

        def allows(kind: str, wanted: str, region: str, arns: list[str] = arns) -> bool:
            # What precedes the kind: arn, partition, service, region, account.
            parts = [arn.replace("AWS::", "").partition(f":{kind}/") for arn in arns]
            return "*" in arns or any(
                before.split(":")[3:4] in ([region], ["*"]) and kind_ and fnmatch(wanted, pattern)
                for before, kind_, pattern in parts
            )

        # An inference profile is named after the model behind it, which the policy has to name too, for all regions.
        here = "${Region}"
        profile = allows("inference-profile", model, here) and allows("foundation-model", model.partition(".")[2], "*")
        fits = not arns or model in ("*", *arns) or allows("foundation-model", model, here) or profile
        assert fits, (
            f"{name}: the policy for {arns} does not allow MODEL_ID {model}; name the model in ${{AWS::Region}}, or a "
            "profile there and the model behind it in region *"
        )
