"""Rules for CloudFront and a REST API in front of the function."""

import re
from collections.abc import Iterator
from typing import Any

from local.aws_limits import AWS_LIMITS
from tests.conftest import CHECKED, Template, handler_of, listed, number, ref, true, variables
from tests.test_template_url import URL_ACTIONS

CLOUDFRONT, REST_API = AWS_LIMITS["cloudfront"], AWS_LIMITS["rest_api"]
# Policies by which CloudFront caches nothing, or only what the function's own headers allow.
UNCACHED = [CLOUDFRONT["policies"]["caching_disabled"], CLOUDFRONT["policies"]["use_origin_cache_control_headers"]]
EXCEPT_HOST = CLOUDFRONT["policies"]["all_viewer_except_host_header"]
ELSEWHERE = "arn:aws:acm:eu-west-1:123456789012:certificate/00000000-0000-0000-0000-000000000000"
# Parameters with which a stack has a domain of its own and a limit.
CHOSEN = {
    "DomainName": "api.example.com",
    "CertificateArn": ELSEWHERE.replace("eu-west-1", "us-east-1"),
    "RateLimit": "100",
}
METHODS = {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"}

Distribution = tuple[str, dict[str, Any], list[dict[str, Any]], str]


def distributions(template: Template) -> Iterator[Distribution]:
    """Yield name, origin, behaviors and URL of each distribution whose origin is a function URL of the template."""
    for name, of in template.of("AWS::CloudFront::Distribution").items():
        config = of["DistributionConfig"]
        for origin in config.get("Origins") or []:
            for url in template.urls:
                if ref(f"{url}.FunctionUrl") in str(origin.get("DomainName")):
                    behaviors = [config["DefaultCacheBehavior"], *(config.get("CacheBehaviors") or [])]
                    yield name, origin, [of for of in behaviors if of["TargetOriginId"] == origin["Id"]], url


def test_cloudfront_may_call_the_url(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-restricting-access-to-lambda.html
    controls = template.of("AWS::CloudFront::OriginAccessControl")
    for name, origin, _, url in distributions(template):
        if template.urls[url][0].get("AuthType") == "AWS_IAM":
            control = origin.get("OriginAccessControlId")
            named = [of["OriginAccessControlConfig"] for key, of in controls.items() if ref(f"{key}.Id") == control]
            assert named or template.unknown(control), f"{name}: set OriginAccessControlId to one of {[*controls]}"
            kinds = [(of["OriginAccessControlOriginType"], of["SigningBehavior"]) for of in named]
            assert set(kinds) <= {("lambda", "always")}, (
                f"{control}: set its type to lambda and SigningBehavior: always"
            )
            missing = URL_ACTIONS - template.granted(url, "cloudfront.amazonaws.com", ref(name))
            assert not missing, f"{name}: permit it {missing} on {template.urls[url][1]}"
    for name, of in template.of("AWS::Lambda::Permission").items():
        source = str(of.get("SourceArn", ""))
        if of.get("Principal") == "cloudfront.amazonaws.com" and source:
            # CloudFront is a global service, whose ARNs have no region.
            assert re.match(r"arn:[^:]*(::Partition})?:cloudfront::", source), (
                f"{name}: remove the region from SourceArn: arn:…:cloudfront::account:distribution/id"
            )


def test_cloudfront_secret(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/add-origin-custom-headers.html
    generated = "{{resolve:secretsmanager:"
    for name, origin, _, url in distributions(template):
        of, target = template.urls[url]
        if of.get("AuthType") != "NONE" or target is None:
            continue
        headers = {str(of["HeaderName"]).lower(): of["HeaderValue"] for of in origin.get("OriginCustomHeaders") or []}
        sent = headers.get("x-origin-secret", "")
        assert str(sent).startswith(generated) or template.unknown(sent), (
            f"{name}: set x-origin-secret in OriginCustomHeaders to {generated}…}}}}, not to {sent or 'nothing'}: "
            "anyone else could call the function, or read the secret in the template"
        )
        function = template.functions[target[0]]
        own, known = variables(function).get("FRONT_DOOR_HANDLER"), variables(function).get("ORIGIN_SECRET")
        assert handler_of(function) == CHECKED, f"{target[0]}: set Handler: {CHECKED}, or anyone can call it"
        assert own not in (None, "", CHECKED), f"{target[0]}: set FRONT_DOOR_HANDLER to its own handler"
        assert template.unknown(known) or str(sent) in str(known).split(), (
            f"{target[0]}: set ORIGIN_SECRET to what {name} sends, or it refuses every request"
        )
    for name, of in template.of("AWS::SecretsManager::Secret").items():
        assert "SecretString" not in of, f"{name}: set GenerateSecretString in the place of SecretString"
        length = number((of.get("GenerateSecretString") or {}).get("PasswordLength", 32), 32)
        assert length >= 32, f"{name}: set PasswordLength: 32 or more, not {length:g}"
    for name, output in template.outputs.items():
        assert "resolve:" not in str(output.get("Value")), f"{name}: remove the secret from the outputs"


def test_cloudfront_host(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/functions-event-structure.html
    functions = template.of("AWS::CloudFront::Function")
    setting = [key for key, of in functions.items() if "x-forwarded-host" in str(of.get("FunctionCode"))]
    own = {ref(f"{key}.{end}") for key in setting for end in ("FunctionARN", "FunctionMetadata.FunctionARN")}
    for name, _, behaviors, url in distributions(template):
        for of in behaviors if template.urls[url][0].get("AuthType") == "NONE" else ():
            associated = of.get("FunctionAssociations") or []
            arns = {str(one.get("FunctionARN")) for one in associated if one.get("EventType") == "viewer-request"}
            assert arns & own or any(map(template.unknown, arns)), (
                f"{name}: associate a function that sets x-forwarded-host with viewer-request, or callers choose the "
                "host that the function sees"
            )
    for name, of in functions.items():
        assert true(of.get("AutoPublish")), f"{name}: set AutoPublish: true, or the distribution cannot use it"


def test_cloudfront_origin(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/DownloadDistValuesOrigin.html
    for name, of in template.of("AWS::CloudFront::Distribution").items():
        enabled = str(of["DistributionConfig"].get("Enabled")).lower() != "false"
        assert enabled, f"{name}: set Enabled: true, or it answers nothing"
    for name, origin, _, _ in distributions(template):
        host = not isinstance(origin["DomainName"], str)
        assert host, f"{name}: set DomainName to the host of the URL: !Select [2, !Split ['/', …]]"
        custom = origin.get("CustomOriginConfig") or {}
        policy = custom.get("OriginProtocolPolicy")
        assert policy == "https-only", f"{name}: set OriginProtocolPolicy: https-only, since URLs have no HTTP"
        # Heartbeats come after 15 seconds without an event; the default, which is short, also limits the first byte.
        silence = number(custom.get("OriginReadTimeout", CLOUDFRONT["default_silence"]), CLOUDFRONT["silence"])
        assert silence >= 60, (
            f"{name}: set OriginReadTimeout: {CLOUDFRONT['silence']}, or a stream ends after {silence:g} s without data"
        )
        attempts = number(origin.get("ConnectionAttempts", 3), 1)
        assert attempts == 1, f"{name}: set ConnectionAttempts: 1, or a slow request invokes the function again"


def test_cloudfront_behaviors(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/DownloadDistValuesCacheBehavior.html
    own = [
        ref(key)
        for key, of in template.of("AWS::CloudFront::CachePolicy").items()
        if [str(of["CachePolicyConfig"].get(ttl, 0)) for ttl in ("DefaultTTL", "MinTTL")] == ["0", "0"]
    ]
    requests = [ref(key) for key in template.of("AWS::CloudFront::OriginRequestPolicy")]
    for name, _, behaviors, _ in distributions(template):
        for of in behaviors:
            policy = of.get("CachePolicyId")
            uncached = policy in UNCACHED or policy in own or template.unknown(policy)
            assert uncached, f"{name}: set CachePolicyId: {UNCACHED[0]}, or one with DefaultTTL and MinTTL of 0"
            policy = of.get("OriginRequestPolicyId")
            forwards = policy == EXCEPT_HOST or policy in requests or template.unknown(policy)
            assert forwards, (
                f"{name}: set OriginRequestPolicyId: {EXCEPT_HOST} (AllViewerExceptHostHeader), or the function gets "
                "neither query strings nor cookies, or a Host header that its URL refuses"
            )
            viewer = of.get("ViewerProtocolPolicy")
            secure = viewer in ("redirect-to-https", "https-only")
            assert secure, f"{name}: set ViewerProtocolPolicy: redirect-to-https, not {viewer}"
            refused = METHODS - set(listed(of.get("AllowedMethods", ["GET", "HEAD"])))
            assert not refused, f"{name}: add {sorted(refused)} to AllowedMethods, or CloudFront answers them with 403"


def test_rest_api_streams(template: Template) -> None:
    # https://docs.aws.amazon.com/apigateway/latest/developerguide/response-transfer-mode.html
    apis = template.of("AWS::Serverless::Api")
    events = [
        (name, key, event)
        for name, function in template.functions.items()
        if template.serves_rest_api(name)
        for key, event in (function.get("Events") or {}).items()
    ]
    for function, key, event in events:
        of, name = event.get("Properties") or {}, f"{function}, event {key}"
        public = [url for url, target in template.urls.values() if target and target[0] == function]
        public = [url for url in public if url.get("AuthType") == "NONE"]
        assert event["Type"] != "HttpApi", f"{name}: an HTTP API does not stream; use Type: Api"
        if event["Type"] == "Api":
            mode = of.get("ResponseTransferMode")
            assert mode == "RESPONSE_STREAM", f"{name}: set ResponseTransferMode: RESPONSE_STREAM, not {mode}"
            api = str(of.get("RestApiId"))[2:-1]
            assert api in apis or template.unknown(of.get("RestApiId")), f"{name}: set RestApiId: !Ref {[*apis]}"
            default, most = REST_API["default_timeout"] * 1000, REST_API["timeout"] * 1000
            time = (
                template.functions[function].get("Timeout", AWS_LIMITS["timeout"]["default"]),
                of.get("TimeoutInMillis", default),
            )
            known = all(str(value).isdecimal() for value in time)
            assert not known or int(time[0]) * 1000 <= most, (
                f"{name}: set Timeout of the function to at most {REST_API['timeout']}, when the API ends a stream"
            )
            assert not known or int(time[0]) * 1000 <= int(time[1]) <= most, (
                f"{name}: set TimeoutInMillis to the function's Timeout, {time[0]} s, or more, up to {most}"
            )
            open_to_all = not public and api in apis and "Auth" not in {**of, **apis[api]}
            assert not open_to_all, (
                f"{name}: anyone can call it; set Auth on {api}, to an empty mapping if that is intended"
            )
            path = str(of.get("Path"))
            whole = "{proxy+}" not in path or str(of.get("Method")).upper() in ("ANY", "*")
            assert whole, f"{name}: set Method: ANY, or the function never gets the other methods"
            assert "{proxy}" not in path, (
                f"{name}: set Path: {path.replace('{proxy}', '{proxy+}')}, or it is one segment"
            )


def test_rest_api_paths(template: Template) -> None:
    # https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-set-up-simple-proxy.html
    for name, function in template.functions.items():
        events = [event for event in (function.get("Events") or {}).values() if event["Type"] == "Api"]
        paths = {str((event.get("Properties") or {}).get("Path")) for event in events}
        greedy = {path for path in paths if path.endswith("+}")}
        missing = {"/", "/{proxy+}"} - paths
        complete = not missing or len(paths) > 1 or (not greedy and "/" not in paths) or not template.has_runtime(name)
        assert complete, f"{name}: add an event for {sorted(missing)}: {sorted(paths)} does not include it"


def test_rest_api_settings(template: Template) -> None:
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-resource-api.html
    functions = [of for name, of in template.functions.items() if template.serves_rest_api(name)]
    events = [event for of in functions for event in (of.get("Events") or {}).values()]
    used = {str((event.get("Properties") or {}).get("RestApiId"))[2:-1] for event in events}
    for name, of in template.of("AWS::Serverless::Api").items():
        if name in used:
            endpoint = of.get("EndpointConfiguration")
            kind = endpoint.get("Type") if isinstance(endpoint, dict) else endpoint
            regional = kind in ("REGIONAL", "PRIVATE") or template.unknown(kind)
            assert regional, (
                f"{name}: set EndpointConfiguration: Type: REGIONAL; others close a stream after "
                f"{REST_API['edge_silence']} seconds without data"
            )
            binary = {"*~1*", "*/*"} & set(map(str, listed(of.get("BinaryMediaTypes"))))
            assert binary, f'{name}: set BinaryMediaTypes: ["*~1*"], or binary bodies are damaged'
            auth = of.get("Auth") or {}
            signed = auth.get("DefaultAuthorizer") == "AWS_IAM"
            assert not signed or auth.get("InvokeRole") == "NONE", (
                f"{name}: set InvokeRole: NONE, or each caller also needs permission to invoke the function"
            )


def test_cloudfront_domain(template: Template) -> None:
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/cnames-and-https-requirements.html
    for name, of in chosen(template, "AWS::CloudFront::Distribution").items():
        config = of["DistributionConfig"]
        certificate = config.get("ViewerCertificate") or {}
        arn = str(certificate.get("AcmCertificateArn", ""))
        assert not config.get("Aliases") or certificate, f"{name}: set ViewerCertificate to one for {config['Aliases']}"
        assert not arn or config.get("Aliases"), f"{name}: set Aliases to the domains of its certificate"
        if arn:
            fits = ":acm:us-east-1:" in arn or template.unknown(arn)
            assert fits, f"{name}: set AcmCertificateArn to a certificate in us-east-1, where CloudFront reads them"
            method, version = certificate.get("SslSupportMethod"), str(certificate.get("MinimumProtocolVersion"))
            assert method == "sni-only", f"{name}: set SslSupportMethod: sni-only; {method} is billed by the month"
            assert version.startswith(("TLSv1.2_", "TLSv1.3_")), f"{name}: set MinimumProtocolVersion: TLSv1.2_2021"
            pattern = str(template.parameters.get("CertificateArn", {}).get("AllowedPattern", ".*"))
            literal = arn != CHOSEN["CertificateArn"]
            assert literal or not re.fullmatch(pattern, ELSEWHERE), (
                "CertificateArn: set AllowedPattern to certificates in us-east-1, or the deployment fails at its end"
            )


def test_rest_api_domain(template: Template) -> None:
    # https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-regional-api-custom-domain-create.html
    mapped = [str(of.get("DomainName")) for of in chosen(template, "AWS::ApiGateway::BasePathMapping").values()]
    for name, of in chosen(template, "AWS::ApiGateway::DomainName").items():
        kinds = (of.get("EndpointConfiguration") or {}).get("Types")
        assert kinds == ["REGIONAL"], f"{name}: set EndpointConfiguration: Types: [REGIONAL], as the API has it"
        assert of.get("RegionalCertificateArn"), f"{name}: set RegionalCertificateArn, which regional domains use"
        old = of.get("SecurityPolicy") == "TLS_1_0"
        assert not old, f"{name}: set SecurityPolicy: TLS_1_2"
        leads = {ref(name), str(of.get("DomainName"))} & {*mapped}
        assert leads, f"{name}: add an AWS::ApiGateway::BasePathMapping, or it leads to no API"


def test_web_acl_limits_the_front_door(template: Template) -> None:
    # https://docs.aws.amazon.com/waf/latest/developerguide/how-aws-waf-works-resources.html
    configs = [of["DistributionConfig"] for of in chosen(template, "AWS::CloudFront::Distribution").values()]
    found = {
        "CLOUDFRONT": {str(config.get("WebACLId")) for config in configs},
        "REGIONAL": {str(of.get("WebACLArn")) for of in chosen(template, "AWS::WAFv2::WebACLAssociation").values()},
    }
    remedies = {
        "CLOUDFRONT": "set WebACLId of the distribution to it",
        "REGIONAL": "add an AWS::WAFv2::WebACLAssociation with the stage of the API",
    }
    for name, of in chosen(template, "AWS::WAFv2::WebACL").items():
        scope = str(of.get("Scope"))
        attached = ref(f"{name}.Arn") in found.get(scope, ())
        assert attached, f"{name}: {remedies.get(scope, 'set Scope')}, or it limits nothing"
        rules = {str(rule["Name"]): rule for rule in of.get("Rules") or []}
        for key, rule in rules.items():
            counts = "RateBasedStatement" in rule["Statement"] and "Block" not in (rule.get("Action") or {})
            assert not counts, f"{name}: set Action: Block in the rule {key}, or it lets everything through"
        assert rules, f"{name}: add a rule, or it lets everything through"


def chosen(template: Template, kind: str) -> dict[str, Any]:
    """Return the properties of each resource of a type in a stack with a domain and a limit."""
    own = template.deployed(**{name: value for name, value in CHOSEN.items() if name in template.parameters})
    return {name: of.get("Properties") or {} for name, of in own.items() if of.get("Type") == kind}
