"""What SAM and its linter say of a project's template. They are imported where they are used: that takes seconds."""

import json
from pathlib import Path
from typing import Any

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/stream:latest"


def transformed(project: Path, region: str = "us-east-1") -> dict[str, Any]:
    """The plain CloudFormation that the Serverless transform makes of a project's template."""
    from boto3.session import Session
    from samcli.yamlhelper import yaml_parse
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    source = yaml_parse((project / "template.yaml").read_text(encoding="utf-8"))
    function = source["Resources"]["StreamFunction"]["Properties"]
    # The transform wants code that lies in a bucket, or an image in a registry, as `sam package` leaves it.
    if function.get("PackageType") == "Image":
        function["ImageUri"] = IMAGE
    else:
        function["CodeUri"] = "s3://bucket/key"
    result: dict[str, Any] = Translator({}, Parser(), boto_session=Session(region_name=region)).translate(source, {})
    return result


def validated(template: Path, region: str = "us-east-1") -> tuple[int, str]:
    """`sam validate --lint` in this process, since to start it takes seconds: status and output."""
    from click.testing import CliRunner
    from samcli.cli.main import cli as sam

    done = CliRunner().invoke(sam, ["validate", "--lint", "--template", str(template), "--region", region])
    return done.exit_code, done.output


def linted(text: str, *regions: str) -> list[str]:
    """What cfn-lint finds in a template for these regions."""
    from cfnlint.api import ManualArgs, lint

    return [str(match) for match in lint(text, config=ManualArgs(regions=[*regions]))]


def assert_clean(project: Path, region: str) -> None:
    """Fails unless `sam validate --lint` and cfn-lint, before and after the transform, find nothing in the template."""
    status, output = validated(project / "template.yaml", region)
    assert status == 0, output
    assert "is a valid SAM Template" in output
    assert linted(json.dumps(transformed(project, region)), region) == []
