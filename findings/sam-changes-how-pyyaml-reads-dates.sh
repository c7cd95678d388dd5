#!/usr/bin/env bash
# Once SAM CLI has parsed a template in a process, `yaml.safe_load` reads dates as text and accepts `!Ref`, everywhere.
#
# `samcli.yamlhelper.yaml_parse` of aws-sam-cli 1.170.0 registers its constructors with PyYAML's own SafeLoader and
# SafeConstructor instead of a loader of its own. Tests that use both depend on their order. Seen: a date before, the
# text "2026-11-30" after; `!Ref B` is an error before, and a mapping after.
. "$(dirname "$0")/lib/packages.sh"
packages aws-sam-cli==1.170.0

python -W ignore - <<'PY'
import datetime

import yaml

before = yaml.safe_load("2026-11-30")
try:
    yaml.safe_load("!Ref B")
    raise SystemExit("accepted before")
except yaml.constructor.ConstructorError:
    pass

from samcli.yamlhelper import yaml_parse

yaml_parse("Resources: {}")
after = yaml.safe_load("2026-11-30")
print(repr(before), "->", repr(after), yaml.safe_load("!Ref B"))
assert before == datetime.date(2026, 11, 30)
assert after == "2026-11-30"
assert yaml.safe_load("!Ref B") == {"Ref": "B"}
PY
