#!/usr/bin/env bash
# The Serverless transform turns `ResponseTransferMode: STREAM` into a buffered integration.
#
# API Gateway's own value is STREAM (`responseTransferMode` in its OpenAPI extension); that of SAM's `Api` event is
# RESPONSE_STREAM. samtranslator 1.115.0 neither passes STREAM on nor refuses it, nor any other word, and cfn-lint 1.58.0
# finds nothing wrong: the integration buffers.
. "$(dirname "$0")/lib/packages.sh"
packages aws-sam-translator==1.115.0 cfn-lint==1.58.0

cat > template.yaml <<'YAML'
Transform: AWS::Serverless-2016-10-31
Resources:
  Function:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: s3://bucket/key
      Handler: app.handler
      Runtime: python3.13
      Events:
        Get:
          Type: Api
          Properties: {Path: /, Method: get, ResponseTransferMode: STREAM}
YAML
cfn-lint --regions us-east-1 -- template.yaml
AWS_DEFAULT_REGION=us-east-1 python - 2>/dev/null <<'PY'
import yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator


def integration(mode):
    source = yaml.safe_load(open("template.yaml").read().replace("STREAM}", mode + "}"))
    resources = Translator({}, Parser()).translate(source, {})["Resources"].values()
    [api] = [resource for resource in resources if resource["Type"] == "AWS::ApiGateway::RestApi"]
    made = api["Properties"]["Body"]["paths"]["/"]["get"]["x-amazon-apigateway-integration"]
    return made.get("responseTransferMode"), made["uri"]["Fn::Sub"].rpartition("/")[2]


for mode in ("RESPONSE_STREAM", "STREAM", "BUFFERED"):
    print(mode, *integration(mode))
assert integration("RESPONSE_STREAM") == ("STREAM", "response-streaming-invocations")
assert integration("STREAM") == integration("BUFFERED") == (None, "invocations")
PY
