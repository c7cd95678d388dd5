"""Applications in the shape of SAM CLI's Python starters, by their files."""

from __future__ import annotations

from tests.helpers.support import OWN_ARCHITECTURE, OWN_PYTHON

_BUFFERED = """\
import json


def lambda_handler(event, context):
    return {"statusCode": 200, "body": json.dumps({"message": "hello world"})}
"""
_STREAMING = """\
import time


def lambda_handler(event, context):
    for number in range(5):
        yield f"{number}\\n"
        time.sleep(0.1)
"""
_HEAD = """\
AWSTemplateFormatVersion: '2010-09-09'
Transform: AWS::Serverless-2016-10-31
"""

_HELLO = f"""\
{_HEAD}Description: >
  sam-app

  Sample SAM Template for sam-app

# More info about Globals: https://github.com/aws/serverless-application-model/blob/master/docs/globals.rst
Globals:
  Function:
    Timeout: 3

Resources:
  HelloWorldFunction:
    Type: AWS::Serverless::Function # More info about Function Resource
    Properties:
      CodeUri: hello_world/
      Handler: app.lambda_handler
      Runtime: python{OWN_PYTHON}
      Architectures:
        - {OWN_ARCHITECTURE}
      Events:
        HelloWorld:
          Type: Api # More info about API Event Source
          Properties:
            Path: /hello
            Method: get

Outputs:
  # ServerlessRestApi is an implicit API created out of Events key under Serverless::Api
  HelloWorldApi:
    Description: "API Gateway endpoint URL for Prod stage for Hello World function"
    Value: !Sub "https://${{ServerlessRestApi}}.execute-api.${{AWS::Region}}.amazonaws.com/Prod/hello/"
  HelloWorldFunctionIamRole:
    Description: "Implicit IAM Role created for Hello World function"
    Value: !GetAtt HelloWorldFunctionRole.Arn
"""

# Line breaks of Windows, parameters, and no outputs.
_TESTED = f"""\
{_HEAD}Description: An application with tests

Parameters:
  Stage: {{Type: String, Default: dev, AllowedValues: [dev, prod]}}

Globals:
  Function:
    Runtime: python{OWN_PYTHON}
    Timeout: 60
    MemorySize: 256
    Architectures: [{OWN_ARCHITECTURE}]
    LoggingConfig:
      LogFormat: JSON
    Environment:
      Variables:
        STAGE: !Ref Stage

Resources:
    ChatFunction:
        Type: AWS::Serverless::Function
        Properties:
            CodeUri: functions/chat
            Handler: chat.main.lambda_handler
            Description: |
                Answers in pieces.
""".replace("\n", "\r\n")

# The condition is on a parameter: findings/ministack-compares-the-name-of-a-pseudo-parameter.sh.
_SEVERAL = f"""\
{_HEAD}
Globals:
  Function:
    Runtime: python{OWN_PYTHON}
    Timeout: 30
    Architectures:
      - {OWN_ARCHITECTURE}

Parameters:
  Stage:
    Type: String
    Default: production

Conditions:
  IsProduction: !Equals [!Ref Stage, production]

Resources:

  ReportFunction:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: report/
      Handler: app.lambda_handler
      Layers:
        - !Ref SharedLayer
      Environment:
        Variables:
          # Set by the monitoring layer
          AWS_LAMBDA_EXEC_WRAPPER: /opt/otel-instrument
          TABLE: "reports" # AWS_LAMBDA_EXEC_WRAPPER

  ChatFunction:
    Type: AWS::Serverless::Function
    Condition: IsProduction
    Properties:
      CodeUri: chat/
      Handler: app.lambda_handler
      Layers: [!Ref SharedLayer]

  QueueFunction:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: queue/
      Handler: app.lambda_handler

  SharedLayer:
    Type: AWS::Serverless::LayerVersion
    Properties:
      ContentUri: shared/
      CompatibleRuntimes: [python{OWN_PYTHON}]
      RetentionPolicy: Delete

Outputs:
  Queue:
    Value: !GetAtt QueueFunction.Arn"""

_SAMCONFIG = 'version = 0.1\n\n[default.deploy.parameters]\nstack_name = "sam-app"\ncapabilities = "CAPABILITY_IAM"\n'
_TEST = """\
from hello_world import app


def test_lambda_handler():
    assert app.lambda_handler({}, None)["statusCode"] == 200
"""
_SHARED = 'TEXT = "shared"\n'
_USES_SHARED = """\
import os

from shared_text import TEXT


def lambda_handler(event, context):
    yield TEXT + os.environ.get("WRAPPED", "")
"""
_WRAPPER = """\
#!/bin/sh
export WRAPPED=", wrapped"
exec "$@"
"""

_EVENT = """\
{
  "body": "{}",
  "resource": "/hello",
  "path": "/hello",
  "httpMethod": "GET",
  "requestContext": {"resourcePath": "/hello", "httpMethod": "GET", "stage": "Prod"}
}
"""

STARTERS = {
    "hello": {
        "template.yaml": _HELLO,
        "hello_world/__init__.py": "",
        "hello_world/app.py": _BUFFERED,
        "hello_world/requirements.txt": "",
        "samconfig.toml": _SAMCONFIG,
        "tests/unit/test_handler.py": _TEST,
        "events/event.json": _EVENT,
    },
    "tested": {
        "template.yaml": _TESTED,
        "samconfig.toml": _SAMCONFIG,
        "functions/chat/chat/__init__.py": "",
        "functions/chat/chat/main.py": _STREAMING,
        "functions/chat/requirements.txt": "",
    },
    "several": {
        "template.yaml": _SEVERAL,
        "report/app.py": _USES_SHARED,
        "report/requirements.txt": "",
        "chat/app.py": _STREAMING,
        "chat/requirements.txt": "",
        "queue/app.py": _BUFFERED,
        "queue/requirements.txt": "",
        "shared/otel-instrument": _WRAPPER,
        "shared/python/shared_text.py": _SHARED,
    },
}
#: Which functions of each are to stream.
FUNCTIONS = {"hello": ["HelloWorldFunction"], "tested": ["ChatFunction"], "several": ["ReportFunction", "ChatFunction"]}
