"""Rules for the function URL in `template.yaml`, who may call it, and the alias behind it."""

import warnings
from urllib.parse import urlsplit

from local.aws_limits import AWS_LIMITS
from tests.conftest import Template, listed, number, true

METHODS = {*AWS_LIMITS["cors"]["methods"], "OPTIONS"}
URL_ACTIONS = {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}


def test_url_streams(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html
    for name, (of, target) in template.urls.items():
        function = target[0] if target else ""
        assert name != "StreamUrl" or function == "StreamFunction", (
            "set TargetFunctionArn of StreamUrl to StreamFunction"
        )
        if function == "StreamFunction" or of.get("InvokeMode") == "RESPONSE_STREAM":
            assert of.get("InvokeMode") == "RESPONSE_STREAM", f"{name}: set InvokeMode: RESPONSE_STREAM"


def test_url_of_a_function_in_a_vpc(template: Template) -> None:
    """A warning, since AWS's sentence may be about callers in a VPC, for whom its remedy is."""
    # https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html#config-rs-vpc-compatibility
    for name, (_, target) in template.urls.items():
        if target and template.functions[target[0]].get("VpcConfig"):
            warnings.warn(
                f"{name}: {target[0]} is in a VPC, and AWS says that function URLs do not stream within a VPC "
                "environment. Probe the deployed URL: make probe URL=https://…",
                stacklevel=1,
            )


def test_function_has_one_url(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html
    for name in template.inline_urls:
        both = (name, template.functions[name].get("AutoPublishAlias", "")) in [
            called for _, called in template.urls.values()
        ]
        assert not both, f"{name}: remove FunctionUrlConfig, because the function has an AWS::Lambda::Url"


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
            assert target in types, f"{name}: {target or function} has no URL; set FunctionName to one of {[*types]}"
            fits = of.get("FunctionUrlAuthType", types[target]) == types[target]
            assert fits, f"{name}: set FunctionUrlAuthType: {types[target]}, as on the URL"
        elif of.get("Principal") == "*" and of["Action"] != "lambda:InvokeFunctionUrl":
            narrowed = {"SourceArn", "SourceAccount", "PrincipalOrgID"} & of.keys()
            assert narrowed, f"{name}: set InvokedViaFunctionUrl: true, or anyone can call the function without its URL"


def test_cors_settings(template: Template) -> None:
    # https://docs.aws.amazon.com/lambda/latest/api/API_Cors.html
    # https://fetch.spec.whatwg.org/#cors-protocol-and-credentials
    for name, of in [*((name, of) for name, (of, _) in template.urls.items()), *template.inline_urls.items()]:
        cors = of.get("Cors") or {}
        for origin in listed(cors.get("AllowOrigins")):
            parts = urlsplit(str(origin))
            plain = str(origin).replace("${AWS::", "")
            exact = origin == "*" or (
                parts.netloc and origin == f"{parts.scheme}://{parts.netloc}" and "*" not in plain
            )
            assert exact or template.unknown(origin), (
                f"{name}: {origin} must be scheme://host[:port], without a path or a pattern; a * stands only alone"
            )
        unknown = set(map(str, listed(cors.get("AllowMethods")))) - METHODS
        assert not unknown, f"{name}: {sorted(unknown)} in AllowMethods are not among {sorted(METHODS)}"
        age, most = number(cors.get("MaxAge", 0), 0), AWS_LIMITS["cors"]["max_age"]
        assert 0 <= age <= most, f"{name}: set MaxAge from 0 to {most} seconds, not {age:g}"
        assert "OPTIONS" not in listed(cors.get("AllowMethods")), (
            f"{name}: remove OPTIONS, which the URL itself answers"
        )
        for key in ("AllowOrigins", "AllowMethods", "AllowHeaders") if true(cors.get("AllowCredentials")) else ():
            assert "*" not in listed(cors.get(key)), f"{name}: list the {key}; with credentials * is not a wildcard"


def test_alias_exists(template: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/automating-updates-to-serverless-apps.html
    for kind, key in (("AWS::Lambda::Url", "TargetFunctionArn"), ("AWS::Lambda::Permission", "FunctionName")):
        for name, of in template.of(kind).items():
            function, alias = template.target(of.get(key), of.get("Qualifier")) or ("", "")
            gradual = key == "TargetFunctionArn" and template.functions.get(function, {}).get("DeploymentPreference")
            assert alias or not gradual, f"{name}: set Qualifier to the alias, or a deployment shifts all traffic"
            if alias:
                resource = template.aliases.get((function, alias))
                assert resource, f"{name}: {function} has no alias {alias}; set AutoPublishAlias: {alias}"
                waits = resource in listed(template.resources[name].get("DependsOn")) or "Alias" in str(of)
                assert waits, f"{name}: set DependsOn: {resource}, which SAM creates"
