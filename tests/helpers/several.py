"""A project with several functions, as a user would add them by hand: a folder and a resource for each."""

import re
from pathlib import Path

from tests.helpers.support import ROOT, run

#: Logical IDs by folder.
FUNCTIONS = {"src": "StreamFunction", "admin": "AdminFunction", "worker": "WorkerFunction"}

_GLOBALS = """Globals:
  Function:
    Architectures: [arm64]
    Timeout: 30

"""
_BOUNDARY = """      PermissionsBoundary: !If [HasPermissionsBoundary, !Ref PermissionsBoundary, !Ref AWS::NoValue]
"""
_RESOURCES = """Resources:
  # Streams, with another Python and in flow style.
  AdminFunction:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: makefile, ContextPath: ., WorkingDirectory: .}
    Properties:
      CodeUri: admin/
      Handler: app.handler
      Runtime: python3.12
      Architectures: [x86_64]
      LoggingConfig: {LogFormat: JSON}
      Environment:
        Variables: {AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap, QUEUE: !Ref Orders}
{boundary}  AdminUrl:
    Type: AWS::Lambda::Url
    Properties: {TargetFunctionArn: !GetAtt AdminFunction.Arn, AuthType: NONE, InvokeMode: RESPONSE_STREAM}
  AdminUrlPermission:
    Type: AWS::Lambda::Permission
    Properties:
      Action: lambda:InvokeFunctionUrl
      FunctionName: !Ref AdminFunction
      Principal: "*"
      FunctionUrlAuthType: NONE
  AdminUrlInvokePermission:
    Type: AWS::Lambda::Permission
    Properties:
      Action: lambda:InvokeFunction
      FunctionName: !Ref AdminFunction
      Principal: "*"
      InvokedViaFunctionUrl: true
  # A plain function.
  WorkerFunction:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: makefile, ContextPath: ., WorkingDirectory: .}
    Properties:
      CodeUri: worker
      Handler: app.handler
      Runtime: python3.13
      LoggingConfig: {LogFormat: JSON}
      Events:
        Orders: {Type: SQS, Properties: {Queue: !GetAtt Orders.Arn}}
{boundary}  Orders:
    Type: AWS::SQS::Queue
    Properties: {VisibilityTimeout: 30}
"""
_OUTPUT = """Outputs:
  AdminUrl:
    Value: !GetAtt AdminUrl.FunctionUrl
"""
_CODE = {
    "admin/app.py": 'def handler(event, context):\n    yield "one\\n"\n    yield "two\\n"\n',
    "admin/requirements.txt": "",
    "worker/app.py": 'def handler(event, context):\n    return {"orders": len(event["Records"])}\n',
}


def add_functions(project: Path) -> Path:
    """Add a function that streams and one that does not to a generated project."""
    template = project / "template.yaml"
    text = template.read_text(encoding="utf-8")
    boundary = _BOUNDARY if "HasPermissionsBoundary" in text else ""
    text = text.replace("Resources:\n", _GLOBALS + _RESOURCES.replace("{boundary}", boundary), 1).replace(
        "Outputs:\n", _OUTPUT, 1
    )
    template.write_text(text, encoding="utf-8")
    for path, code in _CODE.items():
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_text(code, encoding="utf-8")
    return project


def add_events(project: Path) -> Path:
    """Add a plain function to a generated project as docs/several-functions.md shows, with a queue and schedules."""
    run("python", "-m", "local.new", "OrderEvents", "--kind", "plain", cwd=project)
    document = (ROOT / "docs" / "several-functions.md").read_text(encoding="utf-8")
    events, queue = re.findall(r"^```yaml\n( +(?:Events|Orders):\n.*?)^```", document, re.DOTALL | re.MULTILINE)
    template = project / "template.yaml"
    before, function, after = template.read_text(encoding="utf-8").partition("      CodeUri: order_events/\n")
    after = after.replace("\nOutputs:\n", f"\n{queue}\nOutputs:\n", 1)
    template.write_text(before + events + function + after, encoding="utf-8")
    return project
