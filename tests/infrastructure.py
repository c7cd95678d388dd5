"""What SAM and its linter say of a project's template. They are imported where they are used: that takes seconds."""

import json
from pathlib import Path
from typing import Any

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/stream:latest"


def transformed(template: Path, region: str) -> dict[str, Any]:
    """The plain CloudFormation that the Serverless transform makes of a template."""
    from boto3.session import Session
    from samcli.yamlhelper import yaml_parse
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    source = yaml_parse(template.read_text(encoding="utf-8"))
    function = source["Resources"]["StreamFunction"]["Properties"]
    # The transform wants code that lies in a bucket, or an image in a registry, as `sam package` leaves it.
    if function.get("PackageType") == "Image":
        function["ImageUri"] = IMAGE
    else:
        function["CodeUri"] = "s3://bucket/key"
    result: dict[str, Any] = Translator({}, Parser(), boto_session=Session(region_name=region)).translate(source, {})
    return result


def assert_clean(project: Path, region: str) -> None:
    """Fails unless `sam validate --lint` and cfn-lint, before and after the transform, find nothing in the template."""
    from cfnlint.api import ManualArgs, lint
    from click.testing import CliRunner
    from samcli.cli.main import cli as sam

    template = project / "template.yaml"
    validated = CliRunner().invoke(sam, ["validate", "--lint", "--template", str(template), "--region", region])
    assert validated.exit_code == 0, validated.output
    assert "is a valid SAM Template" in validated.output
    text = json.dumps(transformed(template, region))
    assert [str(match) for match in lint(text, config=ManualArgs(regions=[region]))] == []
