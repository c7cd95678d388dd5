#!/usr/bin/env bash
# `sam build` succeeds with an empty artifact where a Makefile's target has no recipe.
#
# For `BuildMethod: makefile` SAM CLI 1.170.0 runs `make build-LogicalId` and looks at its exit status alone. Where that
# target is only declared `.PHONY`, make has nothing to do and exits 0: "Build Succeeded", and nothing to deploy.
. "$(dirname "$0")/lib/packages.sh"
packages aws-sam-cli==1.170.0

cat > template.yaml <<'YAML'
Transform: AWS::Serverless-2016-10-31
Resources:
  Function:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: makefile}
    Properties: {CodeUri: ., Handler: app.handler, Runtime: provided.al2023}
YAML
echo 'def handler(event, context): return 1' > app.py
echo '.PHONY: build-Function' > Makefile
SAM_CLI_TELEMETRY=0 sam build > build.log 2>&1
grep 'Build Succeeded' build.log
test -d .aws-sam/build/Function
test -z "$(ls -A .aws-sam/build/Function)"
echo "The artifact is empty."
