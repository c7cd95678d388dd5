#!/usr/bin/env bash
# In conditions, MiniStack 1.5.33 takes a pseudo parameter's name for its value: `AWS::Region` never equals us-east-1.
#
# So a resource with `Condition: Here`, and `Here: !Equals [!Ref AWS::Region, us-east-1]`, is not created in us-east-1.
# CloudFormation resolves pseudo parameters in conditions:
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/conditions-section-structure.html
# Seen: `CREATE_COMPLETE, with Always alone`.
. "$(dirname "$0")/lib/packages.sh"
packages ministack==1.5.33 # with the botocore that it requires

cat > template.yaml <<'YAML'
Conditions:
  Here: !Equals [!Ref "AWS::Region", us-east-1]
Resources:
  Always: {Type: AWS::SNS::Topic}
  Sometimes: {Type: AWS::SNS::Topic, Condition: Here}
YAML
cat > deploy.py <<'PYTHON'
import os
import pathlib
import subprocess
import socket
import sys
import time
import urllib.request

from botocore.session import Session

with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
variables = {"BIND_HOST": "127.0.0.1", "GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
variables |= {"IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0", "TMPDIR": os.getcwd()}
with open("log", "w") as log:
    server = subprocess.Popen(["ministack"], env={**os.environ, **variables}, stdout=log, stderr=log)
try:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    client = Session().create_client(
        "cloudformation", "us-east-1", endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="testing", aws_secret_access_key="testing",
    )
    client.create_stack(StackName="stack", TemplateBody=pathlib.Path("template.yaml").read_text())
    client.get_waiter("stack_create_complete").wait(StackName="stack", WaiterConfig={"Delay": 1})
    found = client.describe_stack_resources(StackName="stack")["StackResources"]
    names = [of["LogicalResourceId"] for of in found]
    print("CREATE_COMPLETE, with", " and ".join(names))
    sys.exit(names != ["Always"])
finally:
    server.terminate()
    server.wait()
PYTHON
NO_PROXY=127.0.0.1 python deploy.py
