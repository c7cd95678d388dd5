"""What SAM and CloudFormation make of the generated template."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from boto3.session import Session
from cfnlint.api import ManualArgs, lint
from click.testing import CliRunner
from hooks.pre_gen_project import CHOICES, REGIONS
from samcli.cli.main import cli as sam
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from tests.support import Answers, Bake

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

ORIGINS = ["", "*", "https://example.com", "https://example.com, http://localhost:5173"]
COMBINATIONS = [
    dict(zip([*CHOICES, "cors_origins"], values, strict=True))
    for values in itertools.product(*CHOICES.values(), ORIGINS)
]
EXTREMES = [{"memory": "128", "timeout": "1"}, {"memory": "10240", "timeout": "900"}]


def transformed(template: Path, region: str) -> dict[str, Any]:
    """The plain CloudFormation that the Serverless transform makes of a template."""
    source = yaml_parse(template.read_text(encoding="utf-8"))
    # The transform wants code that lies in a bucket, as `sam package` leaves it.
    source["Resources"]["StreamFunction"]["Properties"]["CodeUri"] = "s3://bucket/key"
    result: dict[str, Any] = Translator({}, Parser(), boto_session=Session(region_name=region)).translate(source, {})
    return result


def assert_clean(project: Path, region: str) -> None:
    template = project / "template.yaml"
    validated = CliRunner().invoke(sam, ["validate", "--lint", "--template", str(template), "--region", region])
    assert validated.exit_code == 0, validated.output
    assert "is a valid SAM Template" in validated.output
    text = json.dumps(transformed(template, region))
    assert [str(match) for match in lint(text, config=ManualArgs(regions=[region]))] == []


def name(answers: Answers) -> str:
    return ",".join(f"{option}={value}" for option, value in answers.items())


@pytest.mark.slow
@pytest.mark.parametrize("answers", [*COMBINATIONS, *EXTREMES], ids=name)
def test_linters_are_clean_for_every_combination(answers: Answers, bake: Bake) -> None:
    assert_clean(bake(**answers), "us-east-1")


@pytest.mark.slow
@pytest.mark.parametrize("region", sorted(REGIONS))
def test_linters_are_clean_in_every_region(region: str, bake: Bake) -> None:
    assert_clean(bake(region=region), region)
