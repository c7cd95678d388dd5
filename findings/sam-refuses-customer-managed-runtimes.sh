#!/usr/bin/env bash
# SAM 1.170.0 neither transforms nor builds a function with a customer-managed runtime, which its documentation describes.
#
# https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-property-function-runtimeconfig.html
# samtranslator 1.115.0, which is part of it: "property RuntimeConfig not defined for resource of type
# AWS::Serverless::Function". `sam build` of an AWS::Lambda::Function: "'custom' runtime is not supported". Its linter,
# cfn-lint 1.58.0, does not know the property and the runtime either. With a parameter for the runtime, whose default is
# one that SAM knows, `sam build` has no objection to an AWS::Lambda::Function, and cfn-lint only to the property.
. "$(dirname "$0")/lib/packages.sh"
packages aws-sam-cli==1.170.0 aws-sam-translator==1.115.0 cfn-lint==1.58.0
export SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1

mkdir src
touch src/app.py src/requirements.txt
template() { # type of the resource, name of the property with its code, runtime
    cat > template.yaml <<YAML
Transform: AWS::Serverless-2016-10-31
Parameters:
  Runtime: {Type: String, Default: python3.13}
Resources:
  Function:
    Type: $1
    Metadata: {BuildMethod: makefile}
    Properties:
      Runtime: ${3:-custom}
      RuntimeConfig:
        RuntimeArn: arn:aws:lambda:us-east-1:123456789012:runtime/streaming
        RuntimeAlias: live
      Handler: app.handler
      Role: arn:aws:iam::123456789012:role/function
      $2: src/
YAML
}
refused() { # words of the refusal, command
    words=$1
    shift
    if "$@" > output 2>&1 < /dev/null; then
        echo "accepted: $*" >&2
        exit 1
    fi
    grep --quiet -- "$words" output
    echo "refused: $words"
}

template AWS::Serverless::Function CodeUri
refused "property RuntimeConfig not defined" sam validate
template AWS::Lambda::Function Code
refused "'custom' runtime is not supported" sam build
refused "'RuntimeConfig' was unexpected" cfn-lint --regions us-east-1 -- template.yaml
refused "'custom' is not one of" cfn-lint --regions us-east-1 -- template.yaml

template AWS::Lambda::Function Code '!Ref Runtime'
cat > src/Makefile <<'MAKE'
build-Function: ; cp app.py "$(ARTIFACTS_DIR)"
MAKE
sam build > output 2>&1 < /dev/null
test -f .aws-sam/build/Function/app.py
echo "built: with a parameter for the runtime"
refused "'RuntimeConfig' was unexpected" cfn-lint --regions us-east-1 -- template.yaml
if grep --quiet "'custom'" output; then exit 1; fi
