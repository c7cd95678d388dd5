"""A generated project's own checks catch faults in its template and files, and accept reasonable additions."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.helpers.infrastructure import linted
from tests.helpers.support import TEMPLATE, Answers, Bake, pytest_of

pytestmark = pytest.mark.slow

# The linter of the SAM CLI. The other faults are caught by the project's own tests.
SAM = "sam validate --lint"

Edits = tuple[tuple[str, str], ...]

PUBLIC = {"url_auth": "NONE"}
TOKENS = {"url_auth": "jwt"}
TOKENS_API = {"url_auth": "jwt", "front_door": "rest-api"}
CROSS_ORIGIN = {"cors_origins": "https://example.com", "cors_credentials": "yes"}
PROVIDED = {"runtime": "provided.al2023"}
CONTAINER = {"runtime": "container"}
CLOUDFRONT = {"front_door": "cloudfront"}
SECRET = {"front_door": "cloudfront", "url_auth": "NONE"}
CERTIFICATE = "arn:aws:acm:eu-west-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
GUESSED = "0123456789abcdef" * 3
RESOLVED = '!Sub "{{resolve:secretsmanager:${StreamOriginSecret}:SecretString}}"'
API = {"front_door": "rest-api"}
FULL = {"observability": "full"}
BEDROCK = {"example": "bedrock"}
STAGED = {"deployment": "canary"}
SNAPPED = {"cold_start": "snapstart"}

# What a gradual deployment adds to a public project: the URL and its permissions belong to an alias.
CANARY: Edits = (
    ("      Tracing: Active\n", "      AutoPublishAlias: live\n      Tracing: Active\n"),
    (
        "      Tracing: Active\n",
        "      DeploymentPreference:\n        Type: Canary10Percent5Minutes\n      Tracing: Active\n",
    ),
    ("      AuthType: NONE\n", "      AuthType: NONE\n      Qualifier: live\n"),
    ("  StreamUrl:\n    Type: ", "  StreamUrl:\n    DependsOn: StreamFunctionAliaslive\n    Type: "),
    (
        "FunctionUrl\n      FunctionName: !Ref StreamFunction\n",
        "FunctionUrl\n      FunctionName: !Ref StreamFunctionAliaslive\n",
    ),
    (
        "nvokeFunction\n      FunctionName: !Ref StreamFunction\n",
        "nvokeFunction\n      FunctionName: !Ref StreamFunction.Alias\n",
    ),
)

HEADER = "Resources:\n"
TRACING = "      Tracing: Active\n"
LOGS = "  StreamLogs:\n"
POLICY = """      Policies:
        - Version: "2012-10-17"
          Statement:
            - Effect: Allow
              Action: {action}
              Resource: {resource}
      Tracing: Active
"""
OTHER = """  OtherFunction:
    Type: AWS::Serverless::Function
    Properties:
      InlineCode: "def handler(event, context): ..."
      Handler: index.handler
      Runtime: python3.13
"""
OPEN = (
    OTHER
    + """      FunctionUrlConfig:
        AuthType: NONE
        InvokeMode: RESPONSE_STREAM
"""
)
OPEN_API = (
    OTHER
    + """      Events:
        Other:
          Type: Api
          Properties:
            RestApiId: !Ref StreamApi
            Path: /other
            Method: GET
            ResponseTransferMode: RESPONSE_STREAM
"""
)


class Fault(NamedTuple):
    """A fault: the answers of the project, the edits, and the rule or linter that catches it."""

    answers: Answers
    edits: Edits
    caught_by: str


def fault(answers: Answers, old: str, new: str, caught_by: str) -> Fault:
    return Fault(answers, ((old, new),), caught_by)


def named(answers: Answers) -> str:
    return ",".join(f"{option}={value}" for option, value in answers.items()) or "defaults"


# Another inference profile, and not yet the model behind it.
PROFILE = (
    ('MODEL_ID: "global.amazon.nova-2-lite-v1:0"', "MODEL_ID: us.amazon.nova-pro-v1:0"),
    ("inference-profile/global.amazon.nova-2-lite-v1:0", "inference-profile/us.amazon.nova-pro-v1:0"),
)
VPC = ("      Tracing: Active\n", "      VpcConfig:\n        SubnetIds: [subnet-12345678]\n")
LIMITS = "test_timeout_and_memory_limits"
RUNTIME = "test_bootstrap_is_the_entry_point"
HANDLER = "test_handler_exists"
BUILD = "test_build_method"
STREAMS = "test_url_streams"
ANYONE = "test_public_url_permissions"
FITS = "test_url_permissions_match"
CORS = "test_cors_settings"
ALIAS = "test_alias_exists"
ROLES = "test_least_privilege"
FRONT = "test_cloudfront_may_call_the_url"
CLOSED = "test_cloudfront_secret"
HOST = "test_cloudfront_host"
DOMAIN = "test_cloudfront_domain"
API_DOMAIN = "test_rest_api_domain"
LIMIT = "test_web_acl_limits_the_front_door"
ORIGIN = "test_cloudfront_origin"
BEHAVIOR = "test_cloudfront_behaviors"
REST = "test_rest_api_streams"
REST_SETTINGS = "test_rest_api_settings"
METRICS = "test_metrics_exist"
DIMENSIONS = "test_metric_dimensions"
ALARMS = "test_alarms_can_fire"
EFFECT = "test_alarms_have_an_effect"
GRADUAL = "test_gradual_deployment"
BOUNDARY = "test_permissions_boundary"
MODEL = "test_bedrock_policy"
LOGGING = "test_logs"
OUTPUTS = "test_outputs_exist"
ARCHITECTURE = "test_architecture"
WAITS = "test_depends_on_exists"
SNAPSTART = "test_snapstart_is_supported"
SNAPSHOT = "test_callers_reach_the_snapshot"
OLD_SNAPSHOTS = "test_old_snapshots_are_decided"

CHECKED = "test_tokens_are_checked"
ISSUER = "test_issuer_and_audience"
WAY_IN = "test_no_way_in_without_token"

FAULTS = {
    # The check of tokens.
    "check left out": fault(TOKENS, "Handler: front_door.entry.handler", "Handler: app.handler", CHECKED),
    "check left out of the image": fault(
        {**TOKENS, **CONTAINER}, "          - front_door.entry.handler", "          - app.handler", CHECKED
    ),
    "no handler behind the check": fault(TOKENS, "          FRONT_DOOR_HANDLER: app.handler\n", "", CHECKED),
    "check behind the check": fault(
        TOKENS, "FRONT_DOOR_HANDLER: app.handler", "FRONT_DOOR_HANDLER: front_door.entry.handler", CHECKED
    ),
    "issuer missing": fault(TOKENS, '          JWT_ISSUER: "https://issuer.example.com"\n', "", ISSUER),
    "issuer over HTTP": fault(TOKENS, '"https://issuer.example.com"', '"http://issuer.example.com"', ISSUER),
    "issuer with a query": fault(TOKENS, '"https://issuer.example.com"', '"https://issuer.example.com?x"', ISSUER),
    "audience missing": fault(TOKENS, '          JWT_AUDIENCE: "my-client"\n', "", ISSUER),
    "audience empty": fault(TOKENS, 'JWT_AUDIENCE: "my-client"', 'JWT_AUDIENCE: ""', ISSUER),
    "algorithm with a secret": fault(TOKENS, "JWT_ALGORITHM: RS256", "JWT_ALGORITHM: HS256", ISSUER),
    "no algorithm": fault(TOKENS, "JWT_ALGORITHM: RS256", "JWT_ALGORITHM: none", ISSUER),
    "leeway of an hour": fault(
        TOKENS, "JWT_ALGORITHM: RS256\n", "JWT_ALGORITHM: RS256\n          JWT_LEEWAY: 3600\n", ISSUER
    ),
    "another public URL": fault(TOKENS, HEADER, HEADER + OPEN, WAY_IN),
    "another public API": fault(TOKENS_API, HEADER, HEADER + OPEN_API, WAY_IN),
    "API without the check": fault(TOKENS_API, "Handler: front_door.entry.handler", "Handler: app.handler", CHECKED),
    # The secret of the distribution.
    "secret not sent": fault(SECRET, "HeaderName: x-origin-secret", "HeaderName: x-other", CLOSED),
    "secret in the template": fault(SECRET, f"HeaderValue: {RESOLVED}", f"HeaderValue: {GUESSED}", CLOSED),
    "secret as a parameter": Fault(
        SECRET,
        (
            (f"HeaderValue: {RESOLVED}", "HeaderValue: !Ref Secret"),
            (
                "Parameters:\n",
                "Parameters:\n  Secret:\n    Type: String\n    Default: 0123456789abcdef0123456789abcdef\n",
            ),
        ),
        CLOSED,
    ),
    "secret in an output": fault(SECRET, "    Value: !GetAtt StreamUrl.FunctionUrl", f"    Value: {RESOLVED}", CLOSED),
    "secret not checked": fault(SECRET, "Handler: front_door.entry.handler", "Handler: app.handler", CLOSED),
    "secret unknown to the function": fault(SECRET, f"          ORIGIN_SECRET: {RESOLVED}\n", "", CLOSED),
    "another secret": fault(SECRET, f"ORIGIN_SECRET: {RESOLVED}", f"ORIGIN_SECRET: {GUESSED}", CLOSED),
    "secret that is short": fault(SECRET, "PasswordLength: 48", "PasswordLength: 8", CLOSED),
    "secret written out": fault(
        SECRET,
        "      GenerateSecretString:\n        PasswordLength: 48\n        ExcludePunctuation: true\n",
        "      SecretString: 0123456789abcdef0123456789abcdef\n",
        CLOSED,
    ),
    "host from the caller": fault(
        SECRET,
        "          FunctionAssociations:\n            - EventType: viewer-request\n"
        "              FunctionARN: !GetAtt StreamViewerHost.FunctionARN\n",
        "",
        HOST,
    ),
    "host of the response": fault(SECRET, "EventType: viewer-request", "EventType: viewer-response", HOST),
    "function not published": fault(SECRET, "AutoPublish: true", "AutoPublish: false", HOST),
    # A domain, and a limit.
    "certificate in another region": fault(SECRET, ":acm:us-east-1:", ":acm:[a-z0-9-]+:", DOMAIN),
    "certificate written out": fault(
        SECRET, "AcmCertificateArn: !Ref CertificateArn", f"AcmCertificateArn: {CERTIFICATE}", DOMAIN
    ),
    "domain without a certificate": fault(
        SECRET, "ViewerCertificate: !If\n          - HasDomain", "ViewerCertificate: !If\n          - HasWebAcl", DOMAIN
    ),
    "certificate without a domain": fault(
        SECRET, "        Aliases: !If [HasDomain, [!Ref DomainName], !Ref AWS::NoValue]\n", "", DOMAIN
    ),
    "address of its own": fault(SECRET, "SslSupportMethod: sni-only", "SslSupportMethod: vip", DOMAIN),
    "old TLS": fault(SECRET, "MinimumProtocolVersion: TLSv1.2_2021", "MinimumProtocolVersion: TLSv1", DOMAIN),
    "web ACL not attached": fault(SECRET, "!If [LimitsRate, !GetAtt StreamWebAcl.Arn, !Ref AWS::NoValue]", "x", LIMIT),
    "web ACL of the wrong scope": fault(SECRET, "Scope: CLOUDFRONT", "Scope: REGIONAL", LIMIT),
    "web ACL that counts": fault(
        SECRET,
        "            Block:\n              CustomResponse:\n                ResponseCode: 429\n",
        "            Count: {}\n",
        LIMIT,
    ),
    "web ACL of no stage": fault(API, "      WebACLArn: !GetAtt StreamWebAcl.Arn\n", "      WebACLArn: arn\n", LIMIT),
    "web ACL of CloudFront for an API": fault(API, "Scope: REGIONAL", "Scope: CLOUDFRONT", LIMIT),
    "domain of no API": fault(
        API, "      DomainName: !Ref StreamDomain\n", "      DomainName: other.example.com\n", API_DOMAIN
    ),
    "domain at the edge": fault(API, "          - REGIONAL\n", "          - EDGE\n", API_DOMAIN),
    "domain with old TLS": fault(API, "SecurityPolicy: TLS_1_2", "SecurityPolicy: TLS_1_0", API_DOMAIN),
    "domain without its certificate": fault(
        API,
        "      RegionalCertificateArn: !Ref CertificateArn\n",
        "      CertificateArn: !Ref CertificateArn\n",
        API_DOMAIN,
    ),
    # The function.
    "timeout": fault({}, "Timeout: 120", "Timeout: 1801", LIMITS),
    "timeout 0": fault({}, "Timeout: 120", "Timeout: 0", LIMITS),
    "memory": fault({}, "MemorySize: 512", "MemorySize: 10241", LIMITS),
    "both architectures": fault({}, "- arm64", "- arm64\n        - x86_64", ARCHITECTURE),
    "unknown architecture": fault({}, "- arm64", "- aarch64", ARCHITECTURE),
    "unknown runtime": fault({}, "Runtime: python3.13", "Runtime: python3.99", "test_runtime_exists"),
    "reserved concurrency 0": fault(
        {"reserved_concurrency": "10"},
        "ReservedConcurrentExecutions: 10",
        "ReservedConcurrentExecutions: 0",
        "test_reserved_concurrency",
    ),
    "VPC": fault({}, *VPC, "test_url_of_a_function_in_a_vpc"),
    "handler": fault({}, "Handler: app.handler", "Handler: app.main", HANDLER),
    "handler's module": fault(PROVIDED, "Handler: app.handler", "Handler: main.handler", HANDLER),
    "container's handler": fault(CONTAINER, "          - app.handler", "          - app.handle", HANDLER),
    "container without a handler": fault(
        CONTAINER, "        Command:\n          - app.handler\n", "        WorkingDirectory: /var/task\n", HANDLER
    ),
    "code": fault({}, "CodeUri: src/", "CodeUri: ./", "test_handler_exists"),
    "wrapper missing": fault({}, "AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap", "STAGE: prod", RUNTIME),
    "wrapper elsewhere": fault({}, "/var/task/bootstrap", "/opt/bootstrap", RUNTIME),
    "wrapper on a custom runtime": fault(
        PROVIDED,
        "      Tracing: Active\n",
        "      Environment:\n        Variables:\n          AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap\n",
        RUNTIME,
    ),
    "build method": fault({}, "BuildMethod: makefile", "BuildMethod: python3.13", BUILD),
    "build folder": fault(PROVIDED, "      ContextPath: .\n", "", BUILD),
    # Its URL.
    "invoke mode": fault({}, "InvokeMode: RESPONSE_STREAM", "InvokeMode: BUFFERED", STREAMS),
    "invoke mode missing": fault({}, "      InvokeMode: RESPONSE_STREAM\n", "", STREAMS),
    "unknown invoke mode": fault({}, "InvokeMode: RESPONSE_STREAM", "InvokeMode: STREAM", SAM),
    "target": fault({}, "TargetFunctionArn: !GetAtt StreamFunction.Arn", "TargetFunctionArn: arn", STREAMS),
    "two URLs": fault(
        {},
        "      Tracing: Active\n",
        "      FunctionUrlConfig:\n        AuthType: AWS_IAM\n        InvokeMode: RESPONSE_STREAM\n",
        "test_function_has_one_url",
    ),
    "no permission for the URL": fault(
        PUBLIC, "Action: lambda:InvokeFunctionUrl", "Action: lambda:GetFunction", ANYONE
    ),
    "no permission to invoke": fault(PUBLIC, "      InvokedViaFunctionUrl: true\n", "", ANYONE),
    "permission to invoke beside the URL": fault(PUBLIC, "      InvokedViaFunctionUrl: true\n", "", FITS),
    "permission of a service": fault(PUBLIC, 'Principal: "*"', "Principal: lambda.amazonaws.com", ANYONE),
    "permission's function": fault(PUBLIC, "FunctionName: !Ref StreamFunction", "FunctionName: !Ref StreamUrl", FITS),
    "permission on another function": Fault(
        PUBLIC,
        ((HEADER, HEADER + OTHER), ("FunctionName: !Ref StreamFunction", "FunctionName: !Ref OtherFunction")),
        FITS,
    ),
    "permission's qualifier": Fault(PUBLIC, (*CANARY, ("!Ref StreamFunctionAliaslive", "!Ref StreamFunction")), FITS),
    "permission on another qualifier": Fault(
        PUBLIC, (*CANARY, ("!Ref StreamFunction.Alias", "!Sub ${StreamFunction}:prod")), ANYONE
    ),
    "permission's authorization": fault(PUBLIC, "FunctionUrlAuthType: NONE", "FunctionUrlAuthType: AWS_IAM", FITS),
    "authorization": fault(PUBLIC, "AuthType: NONE", "AuthType: AWS_IAM", FITS),
    "any origin with credentials": fault(CROSS_ORIGIN, '"https://example.com"', '"*"', CORS),
    "origin with a path": fault(CROSS_ORIGIN, '"https://example.com"', '"https://example.com/"', CORS),
    "origin without a scheme": fault(CROSS_ORIGIN, '"https://example.com"', '"example.com"', CORS),
    "OPTIONS": fault(CROSS_ORIGIN, "          - GET\n", "          - GET\n          - OPTIONS\n", CORS),
    "any header with credentials": fault(CROSS_ORIGIN, "- last-event-id", '- "*"', CORS),
    # An alias.
    "unknown alias": Fault(PUBLIC, (*CANARY, ("Qualifier: live", "Qualifier: prod")), ALIAS),
    "version instead of an alias": Fault(PUBLIC, (*CANARY, ("Qualifier: live", "Qualifier: $LATEST")), ALIAS),
    "URL that does not wait": Fault(PUBLIC, (*CANARY, ("    DependsOn: StreamFunctionAliaslive\n", "")), ALIAS),
    "URL beside the alias": Fault(PUBLIC, (*CANARY, ("      Qualifier: live\n", "")), ALIAS),
    "wrong alias in DependsOn": Fault(
        PUBLIC, (*CANARY, ("DependsOn: StreamFunctionAliaslive", "DependsOn: StreamFunctionAliasprod")), WAITS
    ),
    "wrong DependsOn": fault({}, LOGS, "  StreamLogs:\n    DependsOn: StreamFunctionn\n", WAITS),
    # SnapStart.
    "SnapStart of an older Python": fault(SNAPPED, "Runtime: python3.13", "Runtime: python3.11", SNAPSTART),
    "SnapStart without a Python of Lambda's": fault(
        PROVIDED,
        TRACING,
        "      AutoPublishAlias: live\n      SnapStart:\n        ApplyOn: PublishedVersions\n" + TRACING,
        SNAPSTART,
    ),
    "SnapStart and a file system": fault(
        SNAPPED,
        TRACING,
        "      FileSystemConfigs:\n        - Arn: !Ref FileSystem\n          LocalMountPath: /mnt/a\n" + TRACING,
        SNAPSTART,
    ),
    "SnapStart and provisioned concurrency": fault(
        SNAPPED,
        TRACING,
        "      ProvisionedConcurrencyConfig:\n        ProvisionedConcurrentExecutions: 1\n" + TRACING,
        SNAPSTART,
    ),
    "SnapStart and a large /tmp": fault(
        SNAPPED, TRACING, "      EphemeralStorage:\n        Size: 1024\n" + TRACING, SNAPSTART
    ),
    "SnapStart without an alias": fault(SNAPPED, "      AutoPublishAlias: live\n", "", SNAPSHOT),
    "URL beside the snapshot": fault(SNAPPED, "      Qualifier: live\n", "", SNAPSHOT),
    "snapshots that are kept": fault(SNAPPED, "      VersionDeletionPolicy: Delete\n", "", OLD_SNAPSHOTS),
    # Who may do what.
    "any action": fault({}, "      Tracing: Active\n", POLICY.format(action='"*"', resource="!GetAtt Q.Arn"), ROLES),
    "any action of a service": fault(BEDROCK, "bedrock:InvokeModelWithResponseStream", "bedrock:*", ROLES),
    "any resource": fault({}, "      Tracing: Active\n", POLICY.format(action="s3:GetObject", resource='"*"'), ROLES),
    "administrator": fault({}, "      Tracing: Active\n", "      Policies: AdministratorAccess\n", ROLES),
    "another model": fault(
        BEDROCK,
        'MODEL_ID: "global.amazon.nova-2-lite-v1:0"',
        "MODEL_ID: amazon.nova-pro-v1:0",
        MODEL,
    ),
    "another profile, and still the model of the first": Fault(
        BEDROCK,
        PROFILE,
        MODEL,
    ),
    # Logs, outputs.
    "log retention": fault({}, "RetentionInDays: 30", "RetentionInDays: 31", SAM),
    "log group": fault({}, "LogGroup: !Ref StreamLogs", "LogGroup: !Ref StreamLog", SAM),
    "output of another attribute": fault(
        {}, "Value: !GetAtt StreamUrl.FunctionUrl", "Value: !GetAtt StreamUrl.Url", SAM
    ),
    # A name that begins like a function's could be one that SAM makes, so its linter lets it pass.
    "output of nothing": fault({}, "Value: !GetAtt StreamFunction.Arn", "Value: !GetAtt StreamFunctions.Arn", OUTPUTS),
    "output of SAM's own URL": fault(
        CLOUDFRONT, "!Sub https://${StreamDistribution.Dom", "!Sub https://${StreamFunctionUrl.Dom", OUTPUTS
    ),
    "output without !GetAtt": fault({}, "Value: !GetAtt StreamFunction.Arn", "Value: StreamFunction.Arn", OUTPUTS),
    "output of another resource": fault(
        {}, "Value: !GetAtt StreamUrl.FunctionUrl", "Value: !GetAtt StreamFunction.Arn", OUTPUTS
    ),
    "output of another stage": fault(API, "${AWS::URLSuffix}/live/", "${AWS::URLSuffix}/prod/", OUTPUTS),
    # CloudFront.
    "origin access control detached": fault(
        CLOUDFRONT, "            OriginAccessControlId: !GetAtt StreamAccessControl.Id\n", "", FRONT
    ),
    "origin access control for S3": fault(
        CLOUDFRONT, "OriginAccessControlOriginType: lambda", "OriginAccessControlOriginType: s3", FRONT
    ),
    "unsigned": fault(CLOUDFRONT, "SigningBehavior: always", "SigningBehavior: never", FRONT),
    "caching": fault(
        CLOUDFRONT, "4135ea2d-6df8-44a3-9df3-4b5a84be39ad", "658327ea-f89d-4fab-a63d-7e88639e58f6", BEHAVIOR
    ),
    "caching by default": fault(
        CLOUDFRONT,
        "          CachePolicyId: 4135ea2d-6df8-44a3-9df3-4b5a84be39ad\n",
        "          ForwardedValues:\n            QueryString: true\n",
        BEHAVIOR,
    ),
    "host of the distribution": fault(
        CLOUDFRONT, "b689b0a8-53d0-40ab-baf2-68738e2966ac", "216adef6-5c7f-47e4-b989-5492eafa07d3", BEHAVIOR
    ),
    "URL as the origin's host": fault(
        CLOUDFRONT,
        '!Select [2, !Split ["/", !GetAtt StreamUrl.FunctionUrl]]',
        "!GetAtt StreamUrl.FunctionUrl",
        ORIGIN,
    ),
    "no permission for CloudFront": fault(CLOUDFRONT, "      InvokedViaFunctionUrl: true\n", "", FRONT),
    "permission for any distribution": fault(CLOUDFRONT, "distribution/${StreamDistribution}", "distribution/*", FRONT),
    # A REST API.
    "SAM's name of the mode": fault(API, "ResponseTransferMode: RESPONSE_STREAM", "ResponseTransferMode: STREAM", REST),
    "mode missing": fault(API, "            ResponseTransferMode: RESPONSE_STREAM\n", "", REST),
    "event on an API of its own": fault(API, "            RestApiId: !Ref StreamApi\n", "", REST),
    "API that times out first": fault(API, "Timeout: 120\n", "Timeout: 300\n", REST),
    "API that ends a stream first": fault(API, "Timeout: 120\n", "Timeout: 901\n", REST),
    "HTTP API": fault(API, "Type: Api\n", "Type: HttpApi\n", REST),
    "open API": fault(API, "      Auth:\n", "      Tags:\n", REST),
    # Metrics.
    "metric misspelt": fault(FULL, "MetricName: MidStreamErrors", "MetricName: MidstreamErrors", METRICS),
    "Lambda's metric misspelt": fault(FULL, "MetricName: Throttles", "MetricName: Throttle", METRICS),
    "Lambda's namespace misspelt": fault(FULL, 'Namespace: "AWS/Lambda"', "Namespace: AWS/Lamda", METRICS),
    "namespace": fault(
        FULL, '"lambda-stream"\n      MetricName: TimeTo', "LambdaStream\n      MetricName: TimeTo", METRICS
    ),
    "namespace variable missing": fault(FULL, "STREAMING_RUNTIME_METRICS_NAMESPACE:", "SERVICE:", METRICS),
    "namespace variable differs": fault(
        FULL, 'METRICS_NAMESPACE: "lambda-stream"', "METRICS_NAMESPACE: other", METRICS
    ),
    "dimension of no function": fault(FULL, "Value: !Ref StreamFunction", "Value: !Ref StreamLogs", METRICS),
    "dimension of an unknown function": fault(FULL, "Value: !Ref StreamFunction", "Value: other", METRICS),
    "dimension of another function": Fault(
        FULL,
        (
            (HEADER, HEADER + OTHER),
            (
                "MidStreamErrors\n      Dimensions:\n        - Name: FunctionName\n          Value: !Ref Stream",
                "MidStreamErrors\n      Dimensions:\n        - Name: FunctionName\n          Value: !Ref Other",
            ),
        ),
        METRICS,
    ),
    "no alarm on another function's streams": fault(
        FULL,
        HEADER,
        f"""{HEADER}{OTHER}      Environment:
        Variables:
          STREAMING_RUNTIME_METRICS_NAMESPACE: lambda-stream
""",
        "test_alarms_cover_each_function",
    ),
    "dashboard's metric": fault(FULL, '"ChunksStreamed"', '"ChunksSent"', METRICS),
    "alarm of another API": fault(
        {**API, **FULL},
        "- Name: ApiName\n          Value: !Ref AWS::StackName",
        "- Name: ApiName\n          Value: x",
        METRICS,
    ),
    # Behaviors, origin and permission of CloudFront.
    "another behavior that caches": fault(
        CLOUDFRONT,
        "        DefaultCacheBehavior:\n",
        """        CacheBehaviors:
          - PathPattern: /static/*
            TargetOriginId: StreamUrl
            ViewerProtocolPolicy: redirect-to-https
            AllowedMethods: [GET, HEAD, OPTIONS, PUT, PATCH, POST, DELETE]
            CachePolicyId: 658327ea-f89d-4fab-a63d-7e88639e58f6
            OriginRequestPolicyId: b689b0a8-53d0-40ab-baf2-68738e2966ac
        DefaultCacheBehavior:
""",
        BEHAVIOR,
    ),
    "HTTP to the origin": fault(
        CLOUDFRONT, "OriginProtocolPolicy: https-only", "OriginProtocolPolicy: match-viewer", ORIGIN
    ),
    "methods": fault(CLOUDFRONT, "            - POST\n", "", BEHAVIOR),
    "methods left out": fault(
        CLOUDFRONT,
        """          AllowedMethods:
            - GET
            - HEAD
            - OPTIONS
            - PUT
            - PATCH
            - POST
            - DELETE
""",
        "",
        BEHAVIOR,
    ),
    "region in the source": fault(CLOUDFRONT, ":cloudfront::", ":cloudfront:${AWS::Region}:", FRONT),
    "no origin request policy": fault(
        CLOUDFRONT, "          OriginRequestPolicyId: b689b0a8-53d0-40ab-baf2-68738e2966ac\n", "", BEHAVIOR
    ),
    "another origin request policy": fault(
        CLOUDFRONT, "b689b0a8-53d0-40ab-baf2-68738e2966ac", "acba4595-bd28-49b8-b9fe-13317c0390fa", BEHAVIOR
    ),
    "HTTP from viewers": fault(
        CLOUDFRONT, "ViewerProtocolPolicy: redirect-to-https", "ViewerProtocolPolicy: allow-all", BEHAVIOR
    ),
    "read timeout": fault(CLOUDFRONT, "OriginReadTimeout: 120", "OriginReadTimeout: 10", ORIGIN),
    "default read timeout": fault(CLOUDFRONT, "              OriginReadTimeout: 120\n", "", ORIGIN),
    "attempts": fault(CLOUDFRONT, "ConnectionAttempts: 1", "ConnectionAttempts: 3", ORIGIN),
    "default attempts": fault(CLOUDFRONT, "            ConnectionAttempts: 1\n", "", ORIGIN),
    # A gradual deployment.
    "canary without alarms": fault(
        STAGED,
        "        Alarms:\n"
        "          - !Ref StreamCanaryErrorsAlarm\n"
        "          - !Ref StreamCanaryMidStreamErrorsAlarm\n",
        "",
        EFFECT,
    ),
    "canary without one of its alarms": fault(STAGED, "          - !Ref StreamCanaryErrorsAlarm\n", "", EFFECT),
    "alias in another case": fault(STAGED, "AutoPublishAlias: live", "AutoPublishAlias: Live", ALIAS),
    "alarm of another alias": fault(STAGED, "${StreamFunction}:live", "${StreamFunction}:Live", DIMENSIONS),
    "canary alarm that always fires": fault(
        STAGED, "ComparisonOperator: GreaterThanThreshold", "ComparisonOperator: GreaterThanOrEqualToThreshold", ALARMS
    ),
    "canary alarm that never fires": fault(STAGED, "Threshold: 0", "Threshold: 100000", ALARMS),
    "negative threshold": fault(STAGED, "Threshold: 0", "Threshold: -1", ALARMS),
    "canary alarm that is upside down": fault(
        STAGED, "ComparisonOperator: GreaterThanThreshold", "ComparisonOperator: LessThanThreshold", ALARMS
    ),
    "canary alarm without data": fault(STAGED, "TreatMissingData: notBreaching", "TreatMissingData: breaching", ALARMS),
    "missing data left out": fault(STAGED, "      TreatMissingData: notBreaching\n", "", ALARMS),
    "average of errors": fault(STAGED, "Statistic: Sum", "Statistic: Average", ALARMS),
    "canary alarm that fires too late": fault(STAGED, "Period: 60", "Period: 900", GRADUAL),
    "stage of the canary": fault(STAGED, "!Equals [!Ref Stage, production]", "!Equals [!Ref Stage, prod]", GRADUAL),
    "condition of the canary inverted": fault(
        STAGED, "!Equals [!Ref Stage, production]", "!Not [!Equals [!Ref Stage, production]]", GRADUAL
    ),
    "branches of the canary": fault(
        STAGED,
        "[IsProduction, Canary10Percent5Minutes, AllAtOnce]",
        "[IsProduction, AllAtOnce, Canary10Percent5Minutes]",
        GRADUAL,
    ),
    "type of the deployment": fault(STAGED, "Canary10Percent5Minutes", "Canary10Percent5Minute", GRADUAL),
    "principal of the deployment": fault(
        STAGED, "Service: codedeploy.amazonaws.com", "Service: lambda.amazonaws.com", GRADUAL
    ),
    "boundary's condition inverted": fault(
        {}, '!Not [!Equals [!Ref PermissionsBoundary, ""]]', '!Equals [!Ref PermissionsBoundary, ""]', BOUNDARY
    ),
    "boundary's branches": fault(
        {},
        "!If [HasPermissionsBoundary, !Ref PermissionsBoundary, !Ref AWS::NoValue]",
        "!If [HasPermissionsBoundary, !Ref AWS::NoValue, !Ref PermissionsBoundary]",
        BOUNDARY,
    ),
    "role without the boundary": fault(
        STAGED,
        """AWSCodeDeployRoleForLambdaLimited
      PermissionsBoundary: !If [HasPermissionsBoundary, !Ref PermissionsBoundary, !Ref AWS::NoValue]
""",
        "AWSCodeDeployRoleForLambdaLimited\n",
        BOUNDARY,
    ),
    # Alarms.
    "dimension's name": fault(FULL, "- Name: FunctionName", "- Name: Function", DIMENSIONS),
    "dimension that the runtime does not write": fault(
        FULL,
        "MetricName: TimeToFirstByte\n      Dimensions:\n",
        "MetricName: TimeToFirstByte\n      Dimensions:\n        - Name: Stage\n          Value: live\n",
        DIMENSIONS,
    ),
    "no dimensions": fault(
        FULL,
        "MetricName: TimeToFirstByte\n      Dimensions:\n        - Name: FunctionName\n"
        "          Value: !Ref StreamFunction\n",
        "MetricName: TimeToFirstByte\n",
        DIMENSIONS,
    ),
    "alarm of another stage": fault({**API, **FULL}, "          Value: live\n", "          Value: prod\n", DIMENSIONS),
    "unit": fault(
        FULL, "      ExtendedStatistic: p99\n", "      ExtendedStatistic: p99\n      Unit: Seconds\n", ALARMS
    ),
    "threshold in seconds": fault(FULL, "Threshold: 12000", "Threshold: 5", ALARMS),
    "threshold beyond the timeout": fault(FULL, "Threshold: 12000", "Threshold: 500000", ALARMS),
    "topic": fault(FULL, "        - !Ref StreamAlarms\n", "        - !Ref StreamLogs\n", EFFECT),
    "no action": fault(FULL, "      AlarmActions:\n        - !Ref StreamAlarms\n", "", EFFECT),
    "actions turned off": fault(
        FULL, "      AlarmActions:\n", "      ActionsEnabled: false\n      AlarmActions:\n", EFFECT
    ),
    # A REST API's settings.
    "one segment": fault(API, "Path: /{proxy+}", "Path: /{proxy}", REST),
    "edge-optimized endpoint": fault(API, "        Type: REGIONAL\n", "        Type: EDGE\n", REST_SETTINGS),
    "default endpoint": fault(API, "      EndpointConfiguration:\n", "      Tags:\n", REST_SETTINGS),
    "no binary bodies": fault(API, '      BinaryMediaTypes:\n        - "*~1*"\n', "", REST_SETTINGS),
    "callers' permission": fault(API, "InvokeRole: NONE", "InvokeRole: CALLER_CREDENTIALS", REST_SETTINGS),
    "callers' permission by default": fault(API, "        InvokeRole: NONE\n", "", REST_SETTINGS),
    # Bedrock.
    "action that does not stream": fault(
        BEDROCK, "bedrock:InvokeModelWithResponseStream", "bedrock:InvokeModel", MODEL
    ),
    "action that does not exist": fault(
        BEDROCK, "bedrock:InvokeModelWithResponseStream", "bedrock:ConverseStream", MODEL
    ),
    "model in one region": fault(
        BEDROCK, ":bedrock:*::foundation-model", ":bedrock:${AWS::Region}::foundation-model", MODEL
    ),
    "profile in another region": fault(
        BEDROCK,
        ":bedrock:${AWS::Region}:${AWS::AccountId}:inference",
        ":bedrock:us-west-2:${AWS::AccountId}:inference",
        MODEL,
    ),
    "denied": fault(
        BEDROCK,
        "- Effect: Allow\n              Action: bedrock",
        "- Effect: Deny\n              Action: bedrock",
        MODEL,
    ),
    # More of the same kinds.
    "distribution turned off": fault(CLOUDFRONT, "        Enabled: true\n", "        Enabled: false\n", ORIGIN),
    "deployment preference turned off": fault(
        STAGED, "      DeploymentPreference:\n", "      DeploymentPreference:\n        Enabled: false\n", GRADUAL
    ),
    "deployment role without a policy": fault(
        STAGED, "AWSCodeDeployRoleForLambdaLimited", "AWSLambdaBasicExecutionRole", GRADUAL
    ),
    "one method of the API": fault(
        API, "Path: /{proxy+}\n            Method: ANY", "Path: /{proxy+}\n            Method: GET", REST
    ),
    "root alone": fault(
        API,
        "        Paths:\n          Type: Api\n",
        "        Paths:\n          Type: Schedule\n",
        "test_rest_api_paths",
    ),
    "unknown method": fault(CROSS_ORIGIN, "          - GET\n", "          - Get\n", CORS),
    "maximum age": fault(CROSS_ORIGIN, "MaxAge: 3600", "MaxAge: 86401", CORS),
    "negative concurrency": fault(
        {"reserved_concurrency": "10"},
        "ReservedConcurrentExecutions: 10",
        "ReservedConcurrentExecutions: -1",
        "test_reserved_concurrency",
    ),
    "release of Python": fault(PROVIDED, 'PythonVersion: "3.13.18"', 'PythonVersion: "3.13"', BUILD),
    "dashboard that is not JSON": fault(FULL, '"widgets": [', '"widgets": [,', METRICS),
    "dashboard's dimension": fault(
        FULL, '"TimeToFirstByte", "FunctionName"', '"TimeToFirstByte", "Function"', DIMENSIONS
    ),
    # Outputs, logs and origins.
    "output removed": fault(
        {}, "  StreamUrl:\n    Description: URL that streams\n    Value: !GetAtt StreamUrl.FunctionUrl\n", "", OUTPUTS
    ),
    "output renamed": fault({}, "  StreamFunctionName:\n", "  FunctionName:\n", OUTPUTS),
    "log group of every stack": fault({}, "!Sub /aws/lambda/${AWS::StackName}", "/aws/lambda/stream", LOGGING),
    "log group elsewhere": fault({}, "!Sub /aws/lambda/${AWS::StackName}", "!Sub /stream/${AWS::StackName}", LOGGING),
    "log format": fault({}, "LogFormat: JSON", "LogFormat: Text", LOGGING),
    "pattern of origins": fault(CROSS_ORIGIN, '"https://example.com"', '"https://*.example.com"', CORS),
}

# Without parameters and conditions, so that the additions below are the first ones.
ALONE = {"deploy_pipeline": "none"}

# Reasonable additions, which no rule may refuse.
ADDITIONS = f"""Parameters:
  Seconds:
    Type: Number
    Default: 60
  Stage:
    Type: String
  Topic:
    Type: AWS::SSM::Parameter::Value<String>

Globals:
  Function:
    Environment:
      Variables:
        STAGE: !Ref Stage
        SECONDS: !Sub ${{Seconds}} seconds

Conditions:
  Production: !Equals [!Ref Stage, prod]

{HEADER}{OTHER}      MemorySize: !If [Production, 1024, 256]
      Timeout: !Ref Seconds
      Policies:
        - SQSSendMessagePolicy:
            QueueName: !GetAtt Queue.QueueName
        - AWSXrayWriteOnlyAccess
        - Statement:
            - Effect: Allow
              Action:
                - xray:PutTraceSegments
                - cloudwatch:PutMetricData
              Resource: "*"
            - Effect: Allow
              Action: s3:Get*
              Resource: !Sub arn:${{AWS::Partition}}:s3:::${{AWS::StackName}}/*
            - Effect: Deny
              Action: "*"
              Resource: "*"
      Events:
        Schedule:
          Type: Schedule
          Properties:
            Schedule: rate(1 day)
  OtherUrl:
    Type: AWS::Lambda::Url
    Properties:
      TargetFunctionArn: !Ref OtherFunction
      AuthType: AWS_IAM
      Cors:
        AllowOrigins: [!Sub "https://${{AWS::StackName}}.example.com", "http://localhost:5173"]
  OtherPermission:
    Type: AWS::Lambda::Permission
    DependsOn: OtherFunctionRole
    Properties:
      Action: lambda:InvokeFunctionUrl
      FunctionName: !GetAtt OtherFunction.Arn
      Principal: "*"
      PrincipalOrgID: o-a1b2c3d4e5
      FunctionUrlAuthType: AWS_IAM
  TopicPermission:
    Type: AWS::Lambda::Permission
    Properties:
      Action: lambda:InvokeFunction
      FunctionName: !Ref OtherFunction
      Principal: sns.amazonaws.com
      SourceArn: !Ref Topic
  Queue:
    Type: AWS::SQS::Queue
  Key:
    Type: AWS::KMS::Key
    Properties:
      KeyPolicy:
        Statement:
          - Effect: Allow
            Principal: {{AWS: !Sub "arn:${{AWS::Partition}}:iam::${{AWS::AccountId}}:root"}}
            Action: kms:*
            Resource: "*"
  OtherFilter:
    Type: AWS::Logs::MetricFilter
    Properties:
      LogGroupName: !Ref StreamLogs
      FilterPattern: '"slow"'
      MetricTransformations:
        - MetricNamespace: lambda-stream
          MetricName: Slow
          MetricValue: "1"
  SlowAlarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Namespace: lambda-stream
      MetricName: Slow
      Statistic: Sum
      Period: 60
      EvaluationPeriods: 1
      ComparisonOperator: GreaterThanThreshold
      Threshold: 0
  QueueAlarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Namespace: AWS/SQS
      MetricName: ApproximateAgeOfOldestMessage
      Dimensions:
        - Name: QueueName
          Value: !GetAtt Queue.QueueName
      Statistic: Maximum
      Period: 60
      EvaluationPeriods: 1
      ComparisonOperator: GreaterThanThreshold
      Threshold: 60
  OtherAlarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Namespace: AWS/Lambda
      MetricName: Duration
      Dimensions:
        - Name: FunctionName
          Value: !Ref OtherFunction
      Statistic: Maximum
      Period: 60
      EvaluationPeriods: 1
      ComparisonOperator: GreaterThanThreshold
      Threshold: !Ref Seconds
"""
OUTPUT = """Outputs:
  Stage:
    Value: !Ref Stage
  Queue:
    Value: !Sub ${Queue} of ${AWS::StackName}
"""
REASONABLE: Edits = (
    (HEADER, ADDITIONS),
    ("Outputs:\n", OUTPUT),
    ("Timeout: 120", "Timeout: !Ref Seconds"),
    ("TargetFunctionArn: !GetAtt StreamFunction.Arn", "TargetFunctionArn:\n        Fn::GetAtt: [StreamFunction, Arn]"),
)

# What no rule may refuse: the intact project of each group of faults, and additions.
ACCEPTED = {
    **{f"unbroken {named(of.answers)}": Fault(of.answers, (), "") for of in FAULTS.values()},
    "additions": Fault(ALONE, REASONABLE, ""),
    "additions to a public project": Fault({**PUBLIC, **ALONE}, REASONABLE, ""),
    "additions to metrics": Fault({**FULL, **ALONE}, REASONABLE, ""),
    "another profile, and its model": Fault(
        BEDROCK, (*PROFILE, ("foundation-model/amazon.nova-2-lite-v1:0", "foundation-model/amazon.nova-pro-v1:0")), ""
    ),
    "gradual deployment": Fault(PUBLIC, CANARY, ""),
    "snapshots that are kept on purpose": fault(
        SNAPPED, "VersionDeletionPolicy: Delete", "VersionDeletionPolicy: Retain", ""
    ),
    "SnapStart and a gradual deployment": Fault({**SNAPPED, **STAGED}, (), ""),
    "read timeout of a minute": fault(CLOUDFRONT, "OriginReadTimeout: 120", "OriginReadTimeout: 60", ""),
    "threshold of a few errors": fault(STAGED, "Threshold: 0", "Threshold: 5", ""),
    "slower first bytes": fault(FULL, "Threshold: 12000", "Threshold: 20000", ""),
    "model instead of a profile": Fault(
        BEDROCK,
        (
            ('MODEL_ID: "global.amazon.nova-2-lite-v1:0"', "MODEL_ID: amazon.nova-pro-v1:0"),
            (
                ":bedrock:*::foundation-model/amazon.nova-2-lite-v1:0",
                ":bedrock:${AWS::Region}::foundation-model/amazon.nova-pro-v1:0",
            ),
        ),
        "",
    ),
    "own cache policy": Fault(
        CLOUDFRONT,
        (
            (
                HEADER,
                HEADER
                + """  Uncached:
    Type: AWS::CloudFront::CachePolicy
    Properties:
      CachePolicyConfig:
        Name: uncached
        DefaultTTL: 0
        MaxTTL: 0
        MinTTL: 0
        ParametersInCacheKeyAndForwardedToOrigin:
          CookiesConfig: {CookieBehavior: none}
          HeadersConfig: {HeaderBehavior: none}
          QueryStringsConfig: {QueryStringBehavior: none}
          EnableAcceptEncodingGzip: false
""",
            ),
            ("CachePolicyId: 4135ea2d-6df8-44a3-9df3-4b5a84be39ad", "CachePolicyId: !Ref Uncached"),
        ),
        "",
    ),
    "gradual deployment and additions": Fault({**PUBLIC, **ALONE}, (*REASONABLE, *CANARY), ""),
}

# The project's rules for templates, applied to many templates in one process.
HARNESS = """
from pathlib import Path

import pytest

from tests.conftest import Template
{imports}

PLANTED = sorted((Path(__file__).parents[1] / "planted").iterdir())

# Module scope, so that a template is read once and not for each rule.
@pytest.fixture(scope="module", params=PLANTED, ids=lambda path: path.name)
def template(request):
    return Template(request.param)
"""
# The same for its other files: each folder is a project.
FILE_HARNESS = """
from pathlib import Path

import pytest

from tests.test_project import *
from tests.test_snapshot import *

PLANTED = sorted((Path(__file__).parents[1] / "planted").iterdir())

@pytest.fixture(scope="module", params=PLANTED, ids=lambda path: path.name)
def project(request):
    return request.param

# Each fault is for one rule; the intact project and what is to be accepted are for all of them.
@pytest.fixture(autouse=True)
def relevant(request, project):
    rule = (project / "rule").read_text()
    if rule and rule != request.node.originalname:
        pytest.skip(f"for {rule}")
"""


def edited(project: Path, edits: Edits) -> str:
    text = (project / "template.yaml").read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def own_tests(project: Path, *tests: str) -> tuple[int, str]:
    """Run tests of a project; return status and output, with a whole line for each failure."""
    done = pytest_of(project, "-q", "-rfE", "--tb=no", *tests, check=False, COLUMNS="2000")
    return done.returncode, done.stdout + done.stderr


GROUPS = {named(of.answers): of.answers for of in (*FAULTS.values(), *ACCEPTED.values())}


def caught_by_rules(project: Path, planted: list[str]) -> dict[str, set[str]]:
    """Run the rules of a project on the faults in its folder `planted`; return the rules that caught each of them."""
    _, output = own_tests(project, "-Werror::UserWarning", "tests/test_planted.py")
    assert re.search(r"\d+ passed", output), output
    failures = re.findall(r"^(?:FAILED|ERROR) .*::(\w+)\[(?:.*-)?fault(\d+)\b.*?\] - (\w+)", output, re.MULTILINE)
    # A rule says what to do; one that raises another exception does not.
    assert {kind for _, _, kind in failures} <= {"AssertionError", "UserWarning"}, output
    return {name: {rule for rule, at, _ in failures if int(at) == number} for number, name in enumerate(planted)}


def check(planted: dict[str, str], caught: dict[str, set[str]]) -> None:
    """Fail unless each fault was caught by its rule, and nothing else was caught."""
    missed = [name for name, rule in planted.items() if rule.startswith("test_") and rule not in caught[name]]
    assert not missed, caught
    refused = {name: caught[name] for name, rule in planted.items() if not rule and caught[name]}
    assert not refused


def test_vpc_is_a_warning(bake: Bake, tmp_path: Path) -> None:
    project = shutil.copytree(bake(), tmp_path / "project")
    (project / "template.yaml").write_text(edited(project, (VPC,)), encoding="utf-8")
    status, output = own_tests(project, "tests/test_template_url.py")
    assert status == 0
    assert "StreamUrl: StreamFunction is in a VPC, and AWS says that function URLs do not stream within a VPC" in output


@pytest.mark.parametrize("group", GROUPS)
def test_rules_catch_template_faults(group: str, bake: Bake, tmp_path: Path) -> None:
    project = shutil.copytree(bake(**GROUPS[group]), tmp_path / "project")
    planted = {name: of for name, of in {**FAULTS, **ACCEPTED}.items() if of.answers == GROUPS[group]}
    (project / "planted").mkdir()
    for number, of in enumerate(planted.values()):
        (project / "planted" / f"fault{number:03}").write_text(edited(project, of.edits), encoding="utf-8")
    imports = "\n".join(f"from tests.{path.stem} import *" for path in (project / "tests").glob("test_template*.py"))
    (project / "tests" / "test_planted.py").write_text(HARNESS.format(imports=imports), encoding="utf-8")
    check({name: of.caught_by for name, of in planted.items()}, caught_by_rules(project, [*planted]))


@pytest.mark.parametrize("name", [name for name, of in FAULTS.items() if of.caught_by == SAM])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_sam_linter_catches_the_rest(name: str, bake: Bake) -> None:
    assert linted(edited(bake(**FAULTS[name].answers), FAULTS[name].edits), "us-east-1")


@pytest.mark.parametrize("name", [name for name, of in ACCEPTED.items() if of.edits])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_sam_linter_accepts_additions(name: str, bake: Bake) -> None:
    assert linted(edited(bake(**ACCEPTED[name].answers), ACCEPTED[name].edits), "us-east-1") == []


MAKEFILE = "test_makefile_builds_each_package"
IMAGE = "test_dockerfile_of_each_image"
SAMCONFIG = "test_samconfig"
WHEELS = "test_requirements_have_wheels"
BOOTSTRAP = "test_bootstrap_is_executable"
SMOKE = "test_smoke_event"
IMPORTS = "test_imports_are_required"
JOBS = "test_workflow_jobs_exist"
INITIALIZES = "test_function_initializes"
CONNECTIONS = "test_snapshot_has_no_connections"
VALUES = "test_snapshot_has_no_unique_values"
DEPLOY = ".github/workflows/deploy.yml"

# Code that makes a connection.
LISTENING = "import socket\nSERVER = socket.create_server(('127.0.0.1', 0))\nADDRESS = SERVER.getsockname()\n"
IN_A_LOOP = (
    "import asyncio\nLOOP = asyncio.new_event_loop()\nKEPT = LOOP.run_until_complete(asyncio.open_connection(*ADDRESS))"
)

# Faults of other files: answers, file, text to replace, replacement, rule; without a rule it is to be accepted.
FILE_FAULTS: dict[str, tuple[Answers, str, str, str, str]] = {
    "build target": ({}, "Makefile", "\nbuild-%:", "\nbuild-Other%:", MAKEFILE),
    "platform": ({}, "Makefile", "$(machine)-manylinux_2_34", "x86_64-manylinux_2_34", MAKEFILE),
    "this machine's platform": ({}, "Makefile", " --python-platform $(machine)-manylinux_2_34", "", MAKEFILE),
    "glibc": ({}, "Makefile", "manylinux_2_34", "manylinux_2_39", MAKEFILE),
    "musl": ({}, "Makefile", "$(machine)-manylinux_2_34", "$(machine)-unknown-linux-musl", MAKEFILE),
    "Python of the build": ({}, "Makefile", "--python-version $(python_version)", "--python-version 3.11", MAKEFILE),
    "built for this machine": ({}, "Makefile", " --only-binary :all:", "", MAKEFILE),
    "bootstrap not copied": ({}, "Makefile", " $(runtime:%=%/.)", "", MAKEFILE),
    "code not copied": ({}, "Makefile", "cp -R $(code)/. ", "cp -R ", MAKEFILE),
    "interpreter's branch": (PROVIDED, "Makefile", '-z "$(bundled)" || sh', '-n "$(bundled)" || sh', MAKEFILE),
    "interpreter's folder": (PROVIDED, "Makefile", '"$(ARTIFACTS_DIR)/python"\n', '"$(ARTIFACTS_DIR)/py"\n', MAKEFILE),
    "target of the requirements": ({}, "Makefile", ' --target "$(ARTIFACTS_DIR)"', " --target build", MAKEFILE),
    "modes": ({}, "Makefile", '@chmod -R a+rX "$(ARTIFACTS_DIR)"', "@true", MAKEFILE),
    "checked bytecode": (
        {},
        "Makefile",
        "--invalidation-mode unchecked-hash",
        "--invalidation-mode timestamp",
        MAKEFILE,
    ),
    "base image": (CONTAINER, "Dockerfile", "public.ecr.aws/lambda/python", "python", IMAGE),
    "parameter that does not exist": (
        {},
        "samconfig.toml",
        "confirm_changeset",
        'parameter_overrides = "Stge=production"\nconfirm_changeset',
        SAMCONFIG,
    ),
    "parameter": (
        {},
        "samconfig.toml",
        "confirm_changeset",
        'parameter_overrides = "PermissionsBoundary=arn"\nconfirm_changeset',
        "",
    ),
    "import of a tool": ({}, "src/app.py", "import os\n", "import os\n\nimport yaml\n", IMPORTS),
    "import of a standard module": ({}, "src/app.py", "import os\n", "import json\nimport os\n", ""),
    "older glibc": ({}, "Makefile", "manylinux_2_34", "manylinux_2_28", ""),
    "entry point": (CONTAINER, "Dockerfile", "ENTRYPOINT", "CMD", IMAGE),
    "entry point in a shell": (CONTAINER, "Dockerfile", '["/var/task/bootstrap"]', "/var/task/bootstrap", IMAGE),
    "image without the runtime": (CONTAINER, "Dockerfile", "COPY ${CODE}/ runtime/ ", "COPY ${CODE}/ ", IMAGE),
    "image without requirements": (
        CONTAINER,
        "Dockerfile",
        '$(printf -- "--requirement %s " /tmp/requirements/*.txt)',
        "--upgrade pip",
        IMAGE,
    ),
    "requirements elsewhere": (CONTAINER, "Dockerfile", '--target "$LAMBDA_TASK_ROOT"', "--target /opt", IMAGE),
    "argument that nothing sets": (CONTAINER, "Dockerfile", "PYTHON_VERSION", "PYTHON_RELEASE", IMAGE),
    "runtime ignored": (CONTAINER, ".dockerignore", "\ndocs\n", "\nruntime/\n", IMAGE),
    "capabilities": ({}, "samconfig.toml", 'capabilities = "CAPABILITY_IAM"\n', "", SAMCONFIG),
    "capabilities misspelt": ({}, "samconfig.toml", "CAPABILITY_IAM", "CAPABILITIES_IAM", SAMCONFIG),
    "stack name": ({}, "samconfig.toml", "lambda-stream", "lambda_stream", SAMCONFIG),
    "stack name missing": ({}, "samconfig.toml", "stack_name", "stack", SAMCONFIG),
    "SAM's own stack": ({}, "samconfig.toml", "lambda-stream", "aws-sam-cli-managed-default", SAMCONFIG),
    "region": ({}, "samconfig.toml", "us-east-1", "us-east", SAMCONFIG),
    "bucket": ({}, "samconfig.toml", "resolve_s3 = true", "resolve_s3 = false", SAMCONFIG),
    "image repository": (CONTAINER, "samconfig.toml", "resolve_image_repos = true\n", "", SAMCONFIG),
    "own bucket": ({}, "samconfig.toml", "resolve_s3 = true", 's3_bucket = "mine"', ""),
    "editable requirement": ({}, "src/requirements.txt", "", "-e ../library\n", WHEELS),
    "local requirement": ({}, "src/requirements.txt", "", "library @ file:///library\n", WHEELS),
    "requirement without a solution": ({}, "src/requirements.txt", "", "h11>=0.16\nh11<0.14\n", WHEELS),
    "comment in requirements": ({}, "src/requirements.txt", "", "# none yet\n", ""),
    "line endings": ({}, "runtime/bootstrap", "\n", "\r\n", BOOTSTRAP),
    "smoke event": ({}, "pyproject.toml", "events/get.json", "events/got.json", SMOKE),
    "smoke event of another source": ({}, "events/get.json", '"http": {', '"mqtt": {', SMOKE),
    # What a snapshot holds.
    **{
        name: (SNAPPED, "src/app.py", "\n\n\ndef lines(", f"\n{line}\n\n\ndef lines(", rule)
        for name, line, rule in (
            ("failing import", "import shop", INITIALIZES),
            ("process that ends", "os._exit(3)", INITIALIZES),
            ("id", "import uuid; ID = uuid.uuid4()", VALUES),
            ("id of a class", "from uuid import uuid1\nclass Of:\n    id = uuid1()", VALUES),
            ("id in a function", "import uuid\ndef name():\n    return uuid.uuid4()\nNAME = name()", VALUES),
            ("seed", "import random; random.seed(time.time())", VALUES),
            ("random number", "from random import choice; PLACE = choice('ab')", VALUES),
            ("generator", "import random; RANDOM = random.Random(7)", VALUES),
            ("secret", "import secrets; KEY = secrets.token_bytes(16)", VALUES),
            ("system's entropy", "KEY = os.urandom(16)", VALUES),
            ("drawn from the system", "import random; ONE = random.SystemRandom().randrange(9)", VALUES),
            ("system's generator", "import random; RANDOM = random.SystemRandom()", ""),
            ("id by name", "import uuid; ID = uuid.uuid5(uuid.NAMESPACE_URL, 'name')", ""),
            ("id in the handler", "import uuid\ndef name():\n    return uuid.uuid4()", ""),
            ("library's id", "import email.utils, tempfile; tempfile.gettempdir()", ""),
            ("connection", f"{LISTENING}KEPT = socket.create_connection(ADDRESS)", CONNECTIONS),
            ("connection in an event loop", f"{LISTENING}{IN_A_LOOP}", CONNECTIONS),
            ("connection that is closed", f"{LISTENING}socket.create_connection(ADDRESS).close()", ""),
            ("connection that is forgotten", f"{LISTENING}socket.create_connection(ADDRESS)", ""),
            (
                "connection that a hook closes",
                f"{LISTENING}import snapshot_restore_py as hooks\nKEPT = socket.create_connection(ADDRESS)\n"
                "hooks.register_before_snapshot(KEPT.close)",
                "",
            ),
        )
    },
    "job's name": ({}, DEPLOY, "\n  staging:", "\n  stage:", JOBS),
    "job's file": ({}, DEPLOY, "/.github/workflows/environment.yml", "/.github/workflows/env.yml", JOBS),
}
FILE_GROUPS = {named(of[0]): of[0] for of in FILE_FAULTS.values()}


@pytest.mark.parametrize("group", FILE_GROUPS)
def test_rules_catch_file_faults(group: str, bake: Bake, tmp_path: Path) -> None:
    project = shutil.copytree(bake(**FILE_GROUPS[group]), tmp_path / "project")
    (project / "tests" / "test_planted.py").write_text(FILE_HARNESS, encoding="utf-8")
    planted = {"intact": "", **{name: of[4] for name, of in FILE_FAULTS.items() if of[0] == FILE_GROUPS[group]}}
    for number, name in enumerate(planted):
        copy = project / "planted" / f"fault{number:03}"
        shutil.copytree(bake(**FILE_GROUPS[group]), copy, ignore=shutil.ignore_patterns("tests"))
        (copy / "rule").write_text(planted[name], encoding="utf-8")
        if name != "intact":
            _, file, old, new, _ = FILE_FAULTS[name]
            text = (copy / file).read_bytes().decode()
            assert old in text, name
            (copy / file).write_bytes((text.replace(old, new) if old else text + new).encode())
    check(planted, caught_by_rules(project, [*planted]))


@pytest.mark.parametrize(
    ("answers", "file", "old", "new", "caught_by"),
    [(CONTAINER, "Dockerfile", "ENTRYPOINT", "CMD", RUNTIME), (BEDROCK, "src/app.py", "handler", "handle", HANDLER)],
    ids=["entry point", "handler"],
)
def test_template_rules_catch_file_faults(
    answers: Answers, file: str, old: str, new: str, caught_by: str, bake: Bake, tmp_path: Path
) -> None:
    project = shutil.copytree(bake(**answers), tmp_path / "project")
    text = (project / file).read_text(encoding="utf-8")
    assert old in text
    (project / file).write_text(text.replace(old, new), encoding="utf-8")
    status, output = own_tests(project, f"tests/test_template.py::{caught_by}")
    assert (status, "AssertionError: " in output) == (1, True), output


def test_rule_catches_bootstrap_mode(bake: Bake, tmp_path: Path) -> None:
    project = shutil.copytree(bake(), tmp_path / "project")
    (project / "runtime" / "bootstrap").chmod(0o644)
    status, output = own_tests(project, "tests/test_project.py::test_bootstrap_is_executable")
    assert (status, "run chmod +x " in output) == (1, True), output


def test_every_rule_catches_a_fault() -> None:
    others = [TEMPLATE / "tests" / f"test_{name}.py" for name in ("project", "snapshot")]
    paths = [*(TEMPLATE / "tests").glob("test_template*.py"), *others]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    planted = {of.caught_by for of in FAULTS.values()} | {of[4] for of in FILE_FAULTS.values()}
    assert set(re.findall(r"^def (test_\w+)", text, re.MULTILINE)) == planted - {SAM, ""}
