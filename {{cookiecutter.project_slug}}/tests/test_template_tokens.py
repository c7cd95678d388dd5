"""Rules for the check of tokens: what `template.yaml` has to say, and that no way into a function leaves it out."""

import re
from urllib.parse import urlsplit

from front_door.keys import ALGORITHMS
from tests.conftest import CHECKED, Template, handler_of, number, variables


def test_tokens_are_checked(template: Template) -> None:
    function = template.functions["StreamFunction"]
    assert handler_of(function) == CHECKED, f"set Handler: {CHECKED}, or the command of the image, or anyone is let in"
    own = variables(function).get("FRONT_DOOR_HANDLER")
    assert own not in (None, "", CHECKED), "set FRONT_DOOR_HANDLER to the function's own handler, such as app.handler"


def test_issuer_and_audience(template: Template) -> None:
    # https://openid.net/specs/openid-connect-discovery-1_0.html#IssuerDiscovery
    for name, of in template.functions.items():
        if handler_of(of) == CHECKED:
            given = variables(of)
            issuer = given.get("JWT_ISSUER")
            parts = urlsplit(str(issuer))
            exact = parts.scheme == "https" and parts.netloc and not parts.query and not parts.fragment
            assert exact or template.unknown(issuer), f"{name}: set JWT_ISSUER to an https:// URL, not {issuer}"
            assert given.get("JWT_AUDIENCE"), f"{name}: set JWT_AUDIENCE, or tokens for others would be let in"
            algorithm = given.get("JWT_ALGORITHM", "RS256")
            assert algorithm in ALGORITHMS, f"{name}: set JWT_ALGORITHM to one with a public key, not {algorithm}"
            leeway = number(given.get("JWT_LEEWAY", 0), 0)
            assert 0 <= leeway <= 120, f"{name}: set JWT_LEEWAY to two minutes at most, not {leeway:g} s"


def test_no_way_in_without_token(template: Template) -> None:
    public = {target[0] for of, target in template.urls.values() if target and of.get("AuthType") == "NONE"}
    public |= {name for name, of in template.inline_urls.items() if of.get("AuthType") == "NONE"}
    apis = template.of("AWS::Serverless::Api")
    for name, of in template.functions.items():
        for event in (of.get("Events") or {}).values():
            properties = event.get("Properties") or {}
            api = re.sub(r"\W", "", str(properties.get("RestApiId")))
            authorizer = {**(apis.get(api, {}).get("Auth") or {}), **(properties.get("Auth") or {})}
            guarded = authorizer.get("Authorizer", authorizer.get("DefaultAuthorizer", "NONE")) != "NONE"
            public |= {name} if event["Type"] in ("Api", "HttpApi") and not guarded else set()
    for name in sorted(public):
        handler = handler_of(template.functions[name])
        assert handler == CHECKED, f"{name}: anyone can call {handler}; set Handler: {CHECKED}, or AuthType: AWS_IAM"
