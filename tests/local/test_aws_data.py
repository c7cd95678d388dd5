"""The build keeps of botocore's files those about services that the code of a package names."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import botocore
import pytest

from local import aws_data, build
from local.template import Template, TemplateError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with five services of botocore, and code that names one."""
    data = tmp_path / "botocore" / "data"
    prefixes = {"s3": "s3", "sso-oidc": "oidc", "cloudwatch": "monitoring", "ec2": "ec2", "sqs": "sqs"}
    for name, prefix in prefixes.items():
        (data / name / "2020-01-01").mkdir(parents=True)
        model = json.dumps({"metadata": {"endpointPrefix": prefix}}).encode()
        (data / name / "2020-01-01" / "service-2.json.gz").write_bytes(gzip.compress(model))
    services = {name: {"x": 1} for name in prefixes.values()}
    partition = {"partition": "aws", "regions": {"us-east-1": {}}, "services": services}
    (data / "endpoints.json").write_text(json.dumps({"partitions": [partition]}), encoding="utf-8")
    (data / "_retry.json").write_text("{}", encoding="utf-8")
    (tmp_path / "botocore" / "client.py").write_text('"ec2"', encoding="utf-8")
    (tmp_path / "app.py").write_text("client = boto3.client('cloudwatch')  # not sqs", encoding="utf-8")
    lines = ["botocore/client.py,sha256=x,1\n", "botocore/data/ec2/2020-01-01/service-2.json.gz,sha256=x,1\n"]
    lines += ["botocore/data/endpoints.json,sha256=x,1\n", "botocore/data/_retry.json,sha256=x,1\n"]
    (tmp_path / "botocore-1.44.8.dist-info").mkdir()
    (tmp_path / "botocore-1.44.8.dist-info" / "RECORD").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_unused_services_are_removed(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What botocore itself names does not count. Credentials need more than the code names."""
    assert aws_data.main([str(package)]) == 0
    data = package / "botocore" / "data"
    assert sorted(path.name for path in data.iterdir()) == ["_retry.json", "cloudwatch", "endpoints.json", "sso-oidc"]
    [partition] = json.loads((data / "endpoints.json").read_text(encoding="utf-8"))["partitions"]
    assert (partition["services"].keys(), partition["regions"]) == ({"monitoring", "oidc"}, {"us-east-1": {}})
    record = (package / "botocore-1.44.8.dist-info" / "RECORD").read_text(encoding="utf-8")
    assert record == "botocore/client.py,sha256=x,1\nbotocore/data/_retry.json,sha256=x,1\n"
    said = capsys.readouterr().out
    assert said.startswith("botocore: kept cloudwatch, sso-oidc, which the code names in quotes or credentials need;")
    assert "removed 3 other services. To keep all, set `AwsServices: all`" in said


def test_package_without_botocore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert aws_data.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def test_real_botocore_makes_clients(tmp_path: Path) -> None:
    """With what stays: client, waiter, paginator, presigned URL, endpoint, and a clear error for the others."""
    own = Path(botocore.__file__).parent
    shutil.copytree(own, tmp_path / "botocore", ignore=shutil.ignore_patterns("__pycache__", "data"))
    for name in ("dynamodb", "s3", "sqs", "sts"):
        shutil.copytree(own / "data" / name, tmp_path / "botocore" / "data" / name)
    for path in (own / "data").glob("*.json"):
        shutil.copy(path, tmp_path / "botocore" / "data")
    (tmp_path / "app.py").write_text('client("s3"); client("dynamodb")', encoding="utf-8")
    assert aws_data.remove_unused(tmp_path) == (["dynamodb", "s3", "sts"], 1)
    code = """if True:
        import botocore, sys
        from botocore.exceptions import UnknownServiceError
        from botocore.session import Session
        session = Session()
        key = {"region_name": "eu-west-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
        s3, table = (session.create_client(name, **key) for name in ("s3", "dynamodb"))
        print(botocore.__file__, s3.meta.endpoint_url, table.meta.endpoint_url)
        s3.get_waiter("bucket_exists"), s3.get_paginator("list_objects_v2"), table.get_paginator("scan")
        assert "eu-west-1" in session.get_available_regions("dynamodb")
        assert s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"}).startswith("https://bucket.s3")
        try:
            session.create_client("sqs", **key)
        except UnknownServiceError as error:
            print(error)
        """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    where, error = done.stdout.splitlines()
    assert where == (
        f"{tmp_path}/botocore/__init__.py https://s3.eu-west-1.amazonaws.com https://dynamodb.eu-west-1.amazonaws.com"
    )
    assert error.startswith("Unknown service: 'sqs'. Valid service names are: dynamodb, s3")


TEMPLATE = """
Resources:
  F:
    Type: AWS::Serverless::Function
    Metadata: {{AwsServices: {}}}
    Properties: {{CodeUri: src, Runtime: python3.13}}
"""


def test_all_services_may_stay(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for given, expected in (("all", "all"), ('""', "")):
        (tmp_path / "template.yaml").write_text(TEMPLATE.format(given), encoding="utf-8")
        assert build.package_of(Template(tmp_path / "template.yaml"), "F").settings()["aws_services"] == expected
    (tmp_path / "template.yaml").write_text(TEMPLATE.format("s3"), encoding="utf-8")
    with pytest.raises(TemplateError, match="AwsServices of Metadata must be all, or left out, got 's3'"):
        build.package_of(Template(tmp_path / "template.yaml"), "F")
