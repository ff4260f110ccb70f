"""Shared access signatures and bearer tokens, and the errors for invalid ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote, quote_plus

import pytest
from azure.servicebus._pyamqp.utils import generate_sas_token

from servicebus_emulator.cloud.entra.definitions import MANAGED_IDENTITY_OBJECT_ID, IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer, TokenRequest
from servicebus_emulator.servicebus.access import AccessMode, Authorizer, Right, path_of
from servicebus_emulator.servicebus.access.entra import DataRole, EntraTokenValidator, RoleAssignment
from servicebus_emulator.servicebus.access.policies import ALL_RIGHTS, DEVELOPMENT_POLICY
from servicebus_emulator.servicebus.errors import ServiceBusError
from tests.unit.emulator.servicebus.credentials import (
    BUS,
    EVERY,
    HOST,
    LATER,
    NOW,
    authorizer,
    refusal,
    signed,
)

# --- signatures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sb://127.0.0.1:5672/Orders", "orders"),
        ("amqps://name.servicebus.windows.net/orders/$Management/", "orders/$management"),
        ("http://localhost:5300/orders?api-version=2021-05", "orders"),
        ("https://localhost", ""),
        ("name.servicebus.windows.net/orders", "orders"),
        ("localhost:5672/orders", "orders"),
        ("localhost/orders", "orders"),
        ("localhosts/orders", "localhosts/orders"),
        ("orders", "orders"),
        ("/a/b.c", "a/b.c"),
        ("", ""),
    ],
)
def test_only_the_path_of_a_resource_uri_counts(uri: str, path: str) -> None:
    assert path_of(uri) == path


def test_a_signature_of_the_python_sdk_is_valid() -> None:
    token = generate_sas_token(  # type: ignore[no-untyped-call]
        f"{HOST}/q", DEVELOPMENT_POLICY.name, DEVELOPMENT_POLICY.keys[0], LATER
    )
    for right in Right:
        authorizer().authorize(token, "Q", right)


@pytest.mark.parametrize(
    "header",
    [
        signed(f"{HOST}/q"),
        signed(f"{HOST}/q", key="second-key"),
        signed(f"{HOST}/q", name="Senders"),
        signed(f"{HOST}/Q/"),
        signed(HOST),
        signed(f"{HOST}/q/messages"),
        signed(f"{HOST}/q/messages/head"),
        signed(f"{HOST}/q").replace("SharedAccessSignature", "sharedaccesssignature"),
        signed(f"{HOST}/q").replace("sr=sb%3A%2F%2F", "sr=sb%3a%2f%2f"),
    ],
)
def test_a_signature_is_valid_for_its_resource_and_everything_below_in_any_case(header: str) -> None:
    authorizer().authorize(header, "q", Right.SEND)


def test_a_client_may_sign_lower_case_percent_escapes() -> None:
    encoded = quote(f"{HOST}/q", safe="").replace("%3A", "%3a").replace("%2F", "%2f")
    digest = hmac.digest(b"first-key", f"{encoded}\n{LATER}".encode(), hashlib.sha256)
    signature = quote_plus(base64.b64encode(digest))
    for resource in (encoded, quote(f"{HOST}/q", safe="")):
        header = f"SharedAccessSignature sig={signature}&se={LATER}&skn=senders&sr={resource}"
        authorizer().authorize(header, "q", Right.SEND)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "MissingToken"),
        ("", "MalformedToken"),
        ("Basic YTpi", "MalformedToken"),
        ("SharedAccessSignature sr=a&se=1&skn=c", "MalformedToken: the signature's field 'sig' is missing"),
        (signed(f"{HOST}/q", key="wrong"), "has another key"),
        (signed(f"{HOST}/q", name="nobody"), "there is no policy 'nobody' for 'q'"),
        (signed(f"{HOST}/other", "listeners", "q-key"), "there is no policy 'listeners' for 'other'"),
        (signed(HOST, "listeners", "q-key"), "there is no policy 'listeners' for the namespace"),
        (signed(f"{HOST}/q", expiry=NOW - 5), "ExpiredToken: The token expired 5 seconds ago"),
        (signed(f"{HOST}/q", expiry="soon"), "'se' must be whole seconds"),
        (signed(f"{HOST}/q", expiry="9" * 5000), "'se' must be whole seconds"),
        (signed(f"{HOST}/q").replace(f"se={LATER}", f"se={LATER + 1}"), "has another key"),
        (signed(f"{HOST}/q").replace("%2Fq&", "%2Fqueue&"), "has another key"),
        (signed(f"{HOST}/other"), "'Send' claim(s) are required to perform this operation. Resource: 'q'"),
        (signed(f"{HOST}/qu"), "'Send' claim(s) are required"),
        (signed(f"{HOST}/q/messagess"), "'Send' claim(s) are required"),
        (signed(f"{HOST}/q", "listeners", "q-key"), "'Send' claim(s) are required"),
        ("Bearer a.b.c", "InvalidIssuer"),
        ("Bearer a.b", "MalformedToken"),
    ],
)
def test_an_invalid_token_is_rejected_with_the_reason_and_without_a_secret(header: str | None, reason: str) -> None:
    description = refusal(authorizer(), header)
    assert reason in description
    assert not any(secret in description for secret in ("first-key", "second-key", "q-key", "sig=", "SAS_KEY_VALUE"))


@pytest.mark.parametrize("below", ["messages", "messages/head", "$deadletterqueue/messages"])
def test_a_queues_policy_may_sign_the_url_of_an_http_request(below: str) -> None:
    path = "q/$deadletterqueue" if below.startswith("$") else "q"
    authorizer().authorize(signed(f"{HOST}/q/{below}", "listeners", "q-key"), path, Right.LISTEN)
    with pytest.raises(ServiceBusError):
        authorizer().authorize(signed(f"{HOST}/other/{below}", "listeners", "q-key"), path, Right.LISTEN)


@pytest.mark.parametrize("entity", ["q", "q/$deadletterqueue", "Q/$Management"])
def test_a_queues_policy_covers_the_queue_and_its_subqueues(entity: str) -> None:
    authorizer().authorize(signed(f"{HOST}/q", "listeners", "q-key"), entity, Right.LISTEN)


@pytest.mark.parametrize("entity", ["", "other", "q2", "q/below"])
def test_a_queues_policy_covers_no_other_queue(entity: str) -> None:
    refusal(authorizer(), signed(f"{HOST}/q", "listeners", "q-key"), entity, Right.LISTEN)


def test_in_open_mode_a_token_needs_only_the_form_of_a_token() -> None:
    auth = authorizer(AccessMode.OPEN)
    auth.authorize("SharedAccessSignature sr=a&sig=b&se=1&skn=c", "q", Right.MANAGE)
    auth.authorize("Bearer a.b.c", "", Right.MANAGE)
    refusal(auth, "SharedAccessSignature sr=a&sig=b&se=1")
    refusal(auth, "Bearer a..c")
    refusal(auth, None)


# --- bearer tokens ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer("http://127.0.0.1:1", IdentityDefinition())


def entra(issuer: Issuer, *assignments: RoleAssignment) -> Authorizer:
    tenant = IdentityDefinition().tenant_id
    jwt_validator = EntraTokenValidator(issuer.verify, (issuer.v1(tenant), issuer.v2(tenant)), assignments)
    return Authorizer(EVERY, jwt_validator=jwt_validator)


def bearer(issuer: Issuer, **changes: object) -> str:
    wanted = {"user": str(MANAGED_IDENTITY_OBJECT_ID), "app": True, "version": "1.0", "audience": BUS} | changes
    return f"Bearer {issuer.mint(TokenRequest.model_validate(wanted))}"


@pytest.mark.parametrize(
    ("role", "allowed"),
    [(DataRole.SENDER, Right.SEND), (DataRole.RECEIVER, Right.LISTEN), (DataRole.OWNER, ALL_RIGHTS)],
)
def test_a_data_role_gives_its_rights(issuer: Issuer, role: DataRole, allowed: Right) -> None:
    auth = entra(issuer, RoleAssignment(MANAGED_IDENTITY_OBJECT_ID, role))
    for right in Right:
        if right in allowed:
            auth.authorize(bearer(issuer), "q", right)
        else:
            assert f"'{right}' claim(s) are required" in refusal(auth, bearer(issuer), "q", right)


@pytest.mark.parametrize("changes", [{"audience": BUS.rstrip("/")}, {"version": "2.0"}])
def test_the_audience_may_lack_its_slash_and_the_token_may_have_version_2(issuer: Issuer, changes: object) -> None:
    assert isinstance(changes, dict)
    auth = entra(issuer, RoleAssignment(MANAGED_IDENTITY_OBJECT_ID, DataRole.OWNER))
    auth.authorize(bearer(issuer, **changes), "q", Right.MANAGE)


def test_a_role_on_one_queue_covers_no_other_queue(issuer: Issuer) -> None:
    auth = entra(issuer, RoleAssignment(MANAGED_IDENTITY_OBJECT_ID, DataRole.OWNER, "Q"))
    auth.authorize(bearer(issuer), "q", Right.SEND)
    refusal(auth, bearer(issuer), "other")
    refusal(auth, bearer(issuer), "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"audience": "https://management.azure.com/"}, "InvalidAudience: the token's 'aud' must be https://service"),
        ({"tenant": "e3a5c9d1-47b2-4f86-9c0d-8a1f2b3c4d5e"}, "InvalidIssuer: the token's 'iss' must be "),
        ({"forged": True}, "InvalidToken"),
        ({"algorithm": "none"}, "MalformedToken"),
        ({"algorithm": "HS256"}, "InvalidToken"),
        ({"lifetime_seconds": -10}, "ExpiredToken"),
        ({"lifetime_seconds": -3600}, "InvalidToken"),
        ({"user": "somebody else"}, "claim(s) are required"),
        ({"claims": {"oid": None}}, "claim(s) are required"),
        ({"claims": {"aud": [BUS]}}, "InvalidAudience"),
        ({"claims": {"exp": "x"}}, "InvalidToken"),
    ],
)
def test_an_invalid_bearer_token_is_rejected_with_the_reason(
    issuer: Issuer, changes: dict[str, object], reason: str
) -> None:
    auth = entra(issuer, RoleAssignment(MANAGED_IDENTITY_OBJECT_ID, DataRole.OWNER))
    token = bearer(issuer, **changes)
    description = refusal(auth, token)
    assert reason in description
    assert token.split(".")[1] not in description


def test_a_token_that_expires_in_the_far_future_is_valid(issuer: Issuer) -> None:
    auth = entra(issuer, RoleAssignment(MANAGED_IDENTITY_OBJECT_ID, DataRole.OWNER))
    auth.authorize(bearer(issuer, claims={"exp": 10**400}), "q", Right.SEND)
