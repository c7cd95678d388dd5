"""What must hold in `template.yaml` for the function to stream, and what linters do not see.

A rule about something that is not in the template is not applied, nor where only AWS knows a value.
"""

import os
import re
import symtable
from fnmatch import fnmatch
from urllib.parse import urlsplit

import botocore.session
import pytest

from tests.conftest import PROJECT, Template, listed, mappings, ref, true, variables

URL_ACTIONS = {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
LAMBDA_METRICS = """AsyncEventAge AsyncEventsDropped AsyncEventsReceived ClaimedAccountConcurrency ConcurrentExecutions
    DeadLetterErrors DestinationDeliveryFailures Duration Errors Invocations IteratorAge OffsetLag OversizedRecordCount
    PostRuntimeExtensionsDuration ProvisionedConcurrencyInvocations ProvisionedConcurrencySpilloverInvocations
    ProvisionedConcurrencyUtilization ProvisionedConcurrentExecutions RecursiveInvocationsDropped Throttles
    UnreservedConcurrentExecutions Url4xxCount Url5xxCount UrlRequestCount UrlRequestLatency"""
# https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-metrics-and-dimensions.html
API_METRICS = ["4XXError", "5XXError", "CacheHitCount", "CacheMissCount", "Count", "IntegrationLatency", "Latency"]
# https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
WITHOUT_RESOURCES = ["cloudwatch:PutMetricData", "ec2:*NetworkInterface*", "ec2:Describe*", "xray:*"]
# CachingDisabled, and the one by which CloudFront keeps only what the function's own headers let it keep.
# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-cache-policies.html
UNCACHED = ["4135ea2d-6df8-44a3-9df3-4b5a84be39ad", "83da9c7e-98b4-4e11-a168-04f0df8e2c65"]
ALL_VIEWER = "216adef6-5c7f-47e4-b989-5492eafa07d3"  # the policy that sends the visitor's Host header on


@pytest.mark.parametrize(("limit", "least", "most"), [("Timeout", 1, 900), ("MemorySize", 128, 10240)])
def test_timeout_and_memory_limits(template: Template, limit: str, least: int, most: int) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html (Lambda Managed Instances have others)
    for name, of in template.functions.items():
        if str(value := of.get(limit)).isdecimal() and "CapacityProviderConfig" not in of:
            assert least <= int(value) <= most, f"{name}: set {limit} to {least} … {most}, not {value}"


def test_architecture(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/foundation-arch.html
    for name, of in template.functions.items():
        found = of.get("Architectures", ["x86_64"])
        assert found in (["arm64"], ["x86_64"]) or template.unknown(listed(found)[0]), f"{name}: set arm64 or x86_64"


def test_runtime_exists(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
    known = botocore.session.get_session().get_service_model("lambda").shape_for("Runtime").metadata["enum"]
    for name, of in template.functions.items():
        runtime = of.get("Runtime", known[0])
        assert runtime in known or template.unknown(runtime), f"{name}: no runtime {runtime}; is botocore up to date?"


def test_reserved_concurrency(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
    for name, of in template.functions.items():
        assert of.get("ReservedConcurrentExecutions") != 0, f"{name}: 0 turns it off; reserve 1 or more, or nothing"


def test_handler_exists(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/python-handler.html
    for name, of in template.functions.items():
        image = of.get("PackageType") == "Image"
        handler = listed((of.get("ImageConfig") or {}).get("Command"))[:1] if image else listed(of.get("Handler"))
        local = not image and fnmatch(str(of.get("Runtime")), "python*") and (PROJECT / str(of.get("CodeUri"))).is_dir()
        if name == "StreamFunction" or local:
            assert handler, f"{name}: name the handler in {'ImageConfig: Command' if image else 'Handler'}"
            module, _, function = handler[0].rpartition(".")
            path = PROJECT / of.get("CodeUri", "src") / f"{module.replace('.', '/')}.py"
            assert path.is_file(), f"{name}: {handler[0]} would be in {path}; correct the handler, or add the file"
            table = symtable.symtable(path.read_text(encoding="utf-8"), str(path), "exec")
            bound = [
                symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()
            ]
            assert function in bound, f"{name}: {path} has no {function}; correct the handler, or define it"


def test_bootstrap_is_executable(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html
    bootstrap = PROJECT / "runtime" / "bootstrap"
    assert bootstrap.is_file(), f"restore {bootstrap}, which the build copies into the package"
    assert os.access(bootstrap, os.X_OK), f"chmod +x {bootstrap}, or Lambda cannot start it"


def test_bootstrap_is_the_entry_point(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper
    of, metadata = template.functions["StreamFunction"], template.resources["StreamFunction"].get("Metadata") or {}
    wrapper = variables(of).get("AWS_LAMBDA_EXEC_WRAPPER")
    if of.get("PackageType") == "Image":
        dockerfile = PROJECT / metadata.get("DockerContext", ".") / metadata.get("Dockerfile", "Dockerfile")
        entry = str((of.get("ImageConfig") or {}).get("EntryPoint", dockerfile.read_text(encoding="utf-8")))
        assert re.search(r"^(ENTRYPOINT )?\[.*bootstrap", entry, re.MULTILINE), "let bootstrap be the ENTRYPOINT"
    elif str(of.get("Runtime")).startswith("provided"):
        assert wrapper is None, "remove AWS_LAMBDA_EXEC_WRAPPER, which works on managed runtimes alone"
    else:
        assert wrapper == "/var/task/bootstrap", "set AWS_LAMBDA_EXEC_WRAPPER: /var/task/bootstrap, or nothing streams"


def test_build_method(template: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/building-custom-runtimes.html
    if template.functions["StreamFunction"].get("PackageType") != "Image":
        metadata = template.resources["StreamFunction"].get("Metadata") or {}
        found = [metadata.get(key) for key in ("BuildMethod", "ContextPath", "WorkingDirectory")]
        assert found == ["makefile", ".", "."], "set BuildMethod: makefile, ContextPath: . and WorkingDirectory: ."
        makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
        assert re.search(r"^build-StreamFunction:.*\n\t", makefile, re.MULTILINE), "keep build-StreamFunction"


def test_url_streams(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html
    for name, (of, target) in template.urls.items():
        function = target[0] if target else ""
        assert name != "StreamUrl" or function == "StreamFunction", "let StreamUrl call StreamFunction"
        if function == "StreamFunction" or of.get("InvokeMode") == "RESPONSE_STREAM":
            assert of.get("InvokeMode") == "RESPONSE_STREAM", f"{name}: set InvokeMode: RESPONSE_STREAM"
            in_vpc = template.functions.get(function, {}).get("VpcConfig")
            assert not in_vpc, f"{name}: remove VpcConfig from {function}, for URLs do not stream there"


def test_function_has_one_url(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html
    for name in template.inline_urls:
        both = (name, template.functions[name].get("AutoPublishAlias", "")) in [
            called for _, called in template.urls.values()
        ]
        assert not both, f"{name}: remove FunctionUrlConfig, since it has an AWS::Lambda::Url"


def test_public_url_permissions(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
    for name, (of, target) in template.urls.items():
        if of.get("AuthType") == "NONE" and target:
            missing = URL_ACTIONS - template.granted(name, "*")
            assert not missing, f"{name}: permit {missing} on {target} to Principal '*', or set AuthType: AWS_IAM"


def test_url_permissions_match(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
    types = {target: of.get("AuthType") for of, target in template.urls.values()}
    for name, of in template.of("AWS::Lambda::Permission").items():
        via, function = true(of.get("InvokedViaFunctionUrl")), of.get("FunctionName")
        if (via or of["Action"] == "lambda:InvokeFunctionUrl") and not template.unknown(function):
            target = template.target(function)
            assert target in types, f"{name}: {target or function} has no URL; let FunctionName be one of {[*types]}"
            fits = of.get("FunctionUrlAuthType", types[target]) == types[target]
            assert fits, f"{name}: set FunctionUrlAuthType: {types[target]}, as on the URL"
        elif of.get("Principal") == "*" and of["Action"] != "lambda:InvokeFunctionUrl":
            narrowed = {"SourceArn", "SourceAccount", "PrincipalOrgID"} & of.keys()
            assert narrowed, f"{name}: set InvokedViaFunctionUrl: true, or anyone calls it beside the URL"


def test_cors_settings(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/api/API_Cors.html
    # https://fetch.spec.whatwg.org/#cors-protocol-and-credentials
    for name, of in [*((name, of) for name, (of, _) in template.urls.items()), *template.inline_urls.items()]:
        cors = of.get("Cors") or {}
        for origin in listed(cors.get("AllowOrigins")):
            parts = urlsplit(str(origin))
            exact = origin == "*" or (parts.netloc and origin == f"{parts.scheme}://{parts.netloc}")
            assert exact or template.unknown(origin), f"{name}: {origin} must be scheme://host[:port], without a path"
        assert "OPTIONS" not in listed(cors.get("AllowMethods")), f"{name}: remove OPTIONS, which the URL answers"
        for key in ("AllowOrigins", "AllowMethods", "AllowHeaders") if true(cors.get("AllowCredentials")) else ():
            assert "*" not in listed(cors.get(key)), f"{name}: list the {key}; with credentials * is no wildcard"


def test_alias_exists(template: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/automating-updates-to-serverless-apps.html
    for kind, key in (("AWS::Lambda::Url", "TargetFunctionArn"), ("AWS::Lambda::Permission", "FunctionName")):
        for name, of in template.of(kind).items():
            function, alias = template.target(of.get(key), of.get("Qualifier")) or ("", "")
            gradual = key == "TargetFunctionArn" and template.functions.get(function, {}).get("DeploymentPreference")
            assert alias or not gradual, f"{name}: set Qualifier to the alias, or all deploys at once"
            if alias:
                resource = template.aliases.get((function, alias))
                assert resource, f"{name}: {function} has no alias {alias}; set AutoPublishAlias: {alias}"
                waits = resource in listed(template.resources[name].get("DependsOn")) or "Alias" in str(of)
                assert waits, f"{name}: set DependsOn: {resource}, which SAM makes"


def test_depends_on_exists(template: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-specification-generated-resources.html
    for name, resource in template.resources.items():
        for other in listed(resource.get("DependsOn")):
            known = sorted({*template.resources, *template.aliases.values()})
            assert template.exists(other), f"{name}: DependsOn names {other}, which is none of {known}"


def test_least_privilege(template: Template) -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/best-practices.html#grant-least-privilege
    for name, resource in template.resources.items():
        for of in mappings(resource):
            # Where there is a principal, it is the policy of a resource, in which * may stand for that one.
            if of.get("Effect") == "Allow" and not {"Principal", "NotPrincipal"} & of.keys():
                actions = list(map(str, listed(of.get("Action"))))
                wild = "NotAction" in of or [action for action in actions if re.fullmatch(r"([\w-]+:)?\*", action)]
                assert not wild, f"{name}: list the actions that it takes, instead of {wild}"
                narrow = all(any(fnmatch(action, known) for known in WITHOUT_RESOURCES) for action in actions)
                anything = "*" in listed(of.get("Resource")) and not narrow and "Condition" not in of
                assert not anything, f"{name}: list the resources of {actions}, instead of *"
        managed = str((resource.get("Properties") or {}).get("Policies"))
        assert "AdministratorAccess" not in managed, f"{name}: list what it may do, instead of everything"


def test_bedrock_policy_matches_model(template: Template) -> None:
    # https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-prereq.html
    for name, of in template.functions.items():
        allowed = [item for item in mappings(of.get("Policies")) if "bedrock:Invoke" in str(item.get("Action"))]
        arns = [str(arn) for item in allowed for arn in listed(item.get("Resource"))]
        model = str(variables(of).get("MODEL_ID", "*"))

        def allows(kind: str, wanted: str, arns: list[str] = arns) -> bool:
            return any(arn == "*" or (kind in arn and fnmatch(wanted, arn.rpartition(kind)[2])) for arn in arns)

        # An inference profile is named after the model behind it, which the policy has to name too.
        profile = allows("inference-profile/", model) and allows("foundation-model/", model.partition(".")[2])
        fits = not arns or model in ("*", *arns) or allows("foundation-model/", model) or profile
        assert fits, (
            f"{name}: MODEL_ID is {model}, and the policy is for {arns}; name it, and the model behind a profile"
        )


def test_cloudfront_streams(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-restricting-access-to-lambda.html
    controls, policies = (template.of(f"AWS::CloudFront::{of}") for of in ("OriginAccessControl", "CachePolicy"))
    own = [ref(key) for key, of in policies.items() if str(of["CachePolicyConfig"].get("DefaultTTL")) == "0"]
    origins = [
        (name, origin, of["DistributionConfig"]["DefaultCacheBehavior"], url)
        for name, of in template.of("AWS::CloudFront::Distribution").items()
        for origin in of["DistributionConfig"].get("Origins") or []
        for url in template.urls
        if ref(f"{url}.FunctionUrl") in str(origin.get("DomainName"))
    ]
    for name, origin, behavior, url in origins:
        assert not isinstance(origin["DomainName"], str), f"{name}: cut the host out of the URL: !Select [2, !Split …]"
        if template.urls[url][0].get("AuthType") == "AWS_IAM":
            control = origin.get("OriginAccessControlId")
            named = [of["OriginAccessControlConfig"] for key, of in controls.items() if ref(f"{key}.Id") == control]
            assert named or template.unknown(control), f"{name}: set OriginAccessControlId, one of {[*controls]}"
            kinds = [(of["OriginAccessControlOriginType"], of["SigningBehavior"]) for of in named]
            assert set(kinds) <= {("lambda", "always")}, f"{control}: let it sign always, for the type lambda"
            missing = URL_ACTIONS - template.granted(url, "cloudfront.amazonaws.com", ref(name))
            assert not missing, f"{name}: permit it {missing} on {template.urls[url][1]}"
        if behavior["TargetOriginId"] == origin["Id"]:
            policy = behavior.get("CachePolicyId")
            uncached = policy in UNCACHED or policy in own or template.unknown(policy)
            assert uncached, f"{name}: set CachePolicyId: {UNCACHED[0]}, or one with DefaultTTL: 0"
            assert behavior.get("OriginRequestPolicyId") != ALL_VIEWER, f"{name}: use AllViewerExceptHostHeader"


def test_rest_api_streams(template: Template) -> None:
    # https://docs.aws.amazon.com/apigateway/latest/developerguide/response-transfer-mode.html
    function, apis = template.functions["StreamFunction"], template.of("AWS::Serverless::Api")
    public = [name for name, (of, _) in template.urls.items() if of.get("AuthType") == "NONE"]
    for name, event in (function.get("Events") or {}).items():
        of = event.get("Properties") or {}
        assert event["Type"] != "HttpApi", f"{name}: an HTTP API does not stream; use Type: Api"
        if event["Type"] == "Api":
            mode = of.get("ResponseTransferMode")
            assert mode == "RESPONSE_STREAM", f"{name}: set ResponseTransferMode: RESPONSE_STREAM, not {mode}"
            api = str(of.get("RestApiId"))[2:-1]
            assert api in apis or template.unknown(of.get("RestApiId")), f"{name}: set RestApiId: !Ref {[*apis]}"
            time = (function.get("Timeout", 3), of.get("TimeoutInMillis", 29000))
            fits = not all(str(value).isdecimal() for value in time) or int(time[0]) * 1000 <= int(time[1]) <= 900000
            assert fits, f"{name}: set TimeoutInMillis to the function's Timeout, {time[0]} s, or more"
            open_to_all = not public and api in apis and "Auth" not in {**of, **apis[api]}
            assert not open_to_all, f"{name}: anyone may call it; set Auth on {api}, an empty one if that is meant"


def test_metrics_exist(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    code = "\n".join(path.read_text(encoding="utf-8") for path in (PROJECT / "src").rglob("*.py"))
    filtered = [(of.get("MetricNamespace"), of.get("MetricName")) for of in mappings(template.resources)]
    end = "_METRICS_NAMESPACE"
    spaces = {name: {v for k, v in variables(of).items() if k.endswith(end)} for name, of in template.functions.items()}
    for place, space, metric, dimensions in template.metrics():
        function, written = dimensions.get("FunctionName"), f'"{metric}"' in code
        target = template.target(function)
        assert target or not function or template.unknown(function), f"{place}: {function} is no function; !Ref one"
        own = spaces[target[0]] if target else set().union(*spaces.values())
        if "ApiName" in dimensions:
            assert (space, metric in API_METRICS) == ("AWS/ApiGateway", True), f"{place}: {space} has no {metric}"
            apis = [of.get("Name", "${AWS::StackName}") for of in template.of("AWS::Serverless::Api").values()]
            assert dimensions["ApiName"] in apis, f"{place}: let ApiName be the Name of an API: {apis}"
        elif space == "AWS/Lambda":
            others = dimensions.keys() - {"FunctionName", "Resource", "ExecutedVersion"}
            assert others or metric in LAMBDA_METRICS.split(), f"{place}: there is no {metric} in {LAMBDA_METRICS}"
        elif (written or function or space in own) and (space, metric) not in filtered:
            assert written, f"{place}: nothing in src/ writes {space} {metric}; correct the names"
            assert space in own or f'"{space}"' in code, f"{place}: set STREAMING_RUNTIME_METRICS_NAMESPACE: {space}"


def test_outputs_exist(template: Template) -> None:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/outputs-section-structure.html
    fixed = {"StreamUrl": "${StreamUrl.FunctionUrl}", "StreamFunctionName": "${StreamFunction}"}
    for name, output in template.outputs.items():
        value = output.get("Value")
        bare = not value or str(value).partition(".")[0] in template.resources
        assert not bare, f"{name}: {value!r} names nothing; write !Ref or !GetAtt before a resource"
        missing = [other for other in re.findall(r"\$\{(\w+)[.}]", str(value)) if not template.exists(other)]
        assert not missing, f"{name}: there is no {missing}; name one of {[*template.resources]}"
        assert value == fixed.get(name, value), f"{name}: let Value be {fixed.get(name)}, which others read"
        for api, stage in re.findall(r"\$\{(\w+)}\.execute-api\.[^/]*/(\w+)", str(value)):
            found = template.of("AWS::Serverless::Api").get(api, {}).get("StageName", stage)
            assert stage == found or template.unknown(found), f"{name}: the stage of {api} is {found}, not {stage}"
