#!/usr/bin/env bash
# With `AutoPublishAlias` alone, a changed timeout, handler, runtime, layer or architecture publishes no version.
#
# The alias goes on to the version that has the old value, though the deployment succeeds. samtranslator 1.115.0 makes the
# version's logical id of CodeUri, Environment, MemorySize and SnapStart only; `AutoPublishAliasAllProperties: true` takes
# in the others.
. "$(dirname "$0")/lib/packages.sh"
packages aws-sam-translator==1.115.0

AWS_DEFAULT_REGION=us-east-1 python - 2>/dev/null <<'PY'
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator


def version(**more):
    properties = {"CodeUri": "s3://b/k", "Handler": "a.h", "Runtime": "python3.13", "AutoPublishAlias": "live", **more}
    template = {"Resources": {"Function": {"Type": "AWS::Serverless::Function", "Properties": properties}}}
    resources = Translator({}, Parser()).translate(template, {})["Resources"]
    return next(name for name, resource in resources.items() if resource["Type"] == "AWS::Lambda::Version")


changes = {
    "MemorySize": 512,
    "Environment": {"Variables": {"A": "1"}},
    "SnapStart": {"ApplyOn": "PublishedVersions"},
    "Timeout": 60,
    "Handler": "b.h",
    "Runtime": "python3.14",
    "Layers": ["arn:aws:lambda:us-east-1:123456789012:layer:tools:1"],
    "Architectures": ["arm64"],
}
new = {name: version(**{name: value}) != version() for name, value in changes.items()}
every = {
    name: version(AutoPublishAliasAllProperties=True, **{name: value}) != version(AutoPublishAliasAllProperties=True)
    for name, value in changes.items()
}
for name in changes:
    print(f"{name:14} new version: {new[name]!s:5} with AutoPublishAliasAllProperties: {every[name]}")
assert [name for name, found in new.items() if found] == ["MemorySize", "Environment", "SnapStart"]
assert all(every.values())
PY
