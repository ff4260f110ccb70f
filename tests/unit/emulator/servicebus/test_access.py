"""Access control: policies of the configuration, valid tokens, and the errors for invalid ones."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from urllib.parse import quote, quote_plus

import pytest
from azure.servicebus._pyamqp.utils import generate_sas_token

from servicebus_emulator.amqp import Target
from servicebus_emulator.amqp.sections import AMQP_VALUE, APPLICATION_PROPERTIES
from servicebus_emulator.cloud.entra.definitions import MANAGED_IDENTITY_OBJECT_ID, IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer, TokenRequest
from servicebus_emulator.servicebus.access import UNCHECKED, AccessMode, Authorizer, ConnectionRights, Right, path_of
from servicebus_emulator.servicebus.access.connection_rights import MAX_AUDIENCE_CHARACTERS, MAX_AUDIENCES
from servicebus_emulator.servicebus.access.entra import DataRole, EntraTokenValidator, RoleAssignment
from servicebus_emulator.servicebus.access.policies import ALL_RIGHTS, DEVELOPMENT_POLICY, Policy
from servicebus_emulator.servicebus.configuration.fields import ConfigError
from servicebus_emulator.servicebus.configuration.policies import parse_policies
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import UNAUTHORIZED, ServiceBusError
from tests.unit.emulator.servicebus.client import Client, Namespace
from tests.unit.emulator.servicebus.rig import section

HOST = "sb://127.0.0.1:5672"
NOW = 1_700_000_000
LATER = NOW + 60
BUS = "https://servicebus.azure.net/"
SENDERS = Policy("senders", Right.SEND, ("first-key", "second-key"))
LISTENERS = Policy("listeners", Right.LISTEN, ("q-key",), entity="q")
EVERY = (DEVELOPMENT_POLICY, SENDERS, LISTENERS)


def authorizer(access: AccessMode = AccessMode.CHECKED) -> Authorizer:
    return Authorizer(EVERY, access=access, clock=lambda: NOW)


def signed(resource: str, name: str = "senders", key: str = "first-key", expiry: object = LATER) -> str:
    """Return a signature as Microsoft's samples compute it."""
    encoded = quote(resource, safe="")
    digest = hmac.digest(key.encode(), f"{encoded}\n{expiry}".encode(), hashlib.sha256)
    return f"SharedAccessSignature sr={encoded}&sig={quote_plus(base64.b64encode(digest))}&se={expiry}&skn={name}"


def refusal(auth: Authorizer, header: str | None, entity: str = "q", right: Right = Right.SEND) -> str:
    """Return the description of the refusal."""
    with pytest.raises(ServiceBusError) as caught:
        auth.authorize(header, entity, right)
    assert caught.value.condition == UNAUTHORIZED
    return caught.value.description


# --- policies ----------------------------------------------------------------------------------------------------


def rule(**changes: object) -> dict[str, object]:
    return {"KeyName": "p", "Rights": ["Send"], "PrimaryKey": "k"} | changes


def document(namespace: object = (), queue: object = ()) -> dict[str, object]:
    rules = [list(one) if isinstance(one, tuple) else one for one in (namespace, queue)]
    entry = {"Name": "n", "AuthorizationRules": rules[0], "Queues": [{"Name": "Q", "AuthorizationRules": rules[1]}]}
    return {"UserConfig": {"Namespaces": [entry]}}


def test_policies_of_namespace_and_queues_are_parsed_and_the_development_policy_is_added() -> None:
    whole = rule(Rights=["Manage"], SecondaryKey="s", ClaimType="SharedAccessKey", ClaimValue="None")
    assert parse_policies(document([whole], [rule(Rights=["Listen", "Send"])])) == (
        DEVELOPMENT_POLICY,
        Policy("p", ALL_RIGHTS, ("k", "s")),
        Policy("p", Right.SEND | Right.LISTEN, ("k",), "q"),
    )


def test_a_policy_with_the_development_policys_name_replaces_it() -> None:
    (only,) = parse_policies(document([rule(KeyName="rootmanagesharedaccesskey")]))
    assert only.keys == ("k",)


@pytest.mark.parametrize(
    ("rules", "where", "what"),
    [
        ({}, "", "must be a JSON array"),
        ([7], "[0]", "must be a JSON object"),
        ([rule(KeyNmae="x")], "[0].KeyNmae", "no such property; known: KeyName, "),
        ([rule(KeyName="")], "[0].KeyName", "must be a text of 1 to 256 characters"),
        ([rule(PrimaryKey=None)], "[0].PrimaryKey", "must be a text of 1 to 256 characters"),
        ([rule(SecondaryKey=7)], "[0].SecondaryKey", "must be a text of 1 to 256 characters"),
        ([rule(Rights=[])], "[0].Rights", "must be a JSON array of one or more of Send, Listen, Manage"),
        ([rule(Rights=["Send", "listen"])], "[0].Rights[1]", "must be one of Send, Listen, Manage"),
        ([rule(), rule(KeyName="P")], "[1].KeyName", "there are two policies named 'p'; names ignore case"),
        ([rule(KeyName=f"p{number}") for number in range(13)], "", "there are 13 policies; 12 are allowed"),
    ],
)
def test_an_invalid_policy_is_rejected_with_its_path(rules: object, where: str, what: str) -> None:
    for path, given in (
        ("UserConfig.Namespaces[0]", document(namespace=rules)),
        ("UserConfig.Namespaces[0].Queues[0]", document(queue=rules)),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_policies(given)
        assert str(caught.value).startswith(f"{path}.AuthorizationRules{where}: {what}")


def test_the_repr_of_a_policy_hides_its_keys() -> None:
    assert "first-key" not in repr(SENDERS)


# --- signatures --------------------------------------------------------------------------------------------------


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


# --- bearer tokens -----------------------------------------------------------------------------------------------


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


# --- the rights of a connection ----------------------------------------------------------------------------------


class Hour:
    """Seconds since the epoch. The test sets it."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


async def test_a_token_gives_rights_over_its_audience_only() -> None:
    rights = ConnectionRights(authorizer(), lambda: None)
    assert not rights.allows("q", Right.SEND)
    rights.put_token(f"{HOST}/Q", signed(HOST))
    assert rights.is_authenticated
    assert rights.allows("q", Right.SEND)
    assert rights.allows("q/$deadletterqueue", Right.SEND | Right.LISTEN)
    assert not rights.allows("q", Right.LISTEN)
    assert not rights.allows("other", Right.SEND)
    rights.close()


async def test_a_token_cannot_be_put_for_an_audience_outside_its_resource() -> None:
    rights = ConnectionRights(authorizer(), lambda: None)
    with pytest.raises(ServiceBusError, match=r"InvalidAudience: the token is for 'q' .*, not for '/'"):
        rights.put_token(HOST, signed(f"{HOST}/q"))
    assert not rights.is_authenticated


async def test_an_invalid_token_does_not_replace_a_valid_one() -> None:
    rights = ConnectionRights(authorizer(), lambda: None)
    rights.put_token(f"{HOST}/q", signed(f"{HOST}/q"))
    with pytest.raises(ServiceBusError, match="InvalidSignature"):
        rights.put_token(f"{HOST}/q", signed(f"{HOST}/q", key="wrong"))
    assert rights.allows("q", Right.SEND)
    rights.close()


async def test_an_expired_token_gives_no_rights_and_is_reported_unless_it_was_replaced() -> None:
    hour, lapsed = Hour(), asyncio.Event()
    rights = ConnectionRights(Authorizer(EVERY, clock=hour), lapsed.set)
    rights.put_token(f"{HOST}/q", signed(f"{HOST}/q", expiry=NOW + 1))
    rights.put_token(f"{HOST}/q", signed(f"{HOST}/q", expiry=NOW + 2))
    hour.now += 1.95
    assert rights.allows("q", Right.SEND)
    rights.put_token(f"{HOST}/other", signed(f"{HOST}/other"))  # makes it set its expiry timer again
    hour.now += 0.05
    assert not rights.allows("q", Right.SEND)
    async with asyncio.timeout(5):
        await lapsed.wait()
    assert rights.allows("other", Right.SEND)
    rights.close()


async def test_the_number_of_audiences_of_a_connection_is_limited() -> None:
    rights, token = ConnectionRights(authorizer(), lambda: None), signed(HOST)
    for number in range(MAX_AUDIENCES):
        rights.put_token(f"{HOST}/{number}", token)
    with pytest.raises(ServiceBusError, match="the most that a connection may have"):
        rights.put_token(f"{HOST}/more", token)
    rights.put_token(f"{HOST}/0", token)
    rights.close()


def test_the_length_of_an_audience_is_limited() -> None:
    audience = f"{HOST}/{'q' * MAX_AUDIENCE_CHARACTERS}"
    with pytest.raises(ServiceBusError, match="The audience is longer than 2048 characters"):
        ConnectionRights(authorizer(), lambda: None).put_token(audience, signed(HOST))


def test_a_login_with_a_policys_name_and_key_replaces_tokens() -> None:
    rights = ConnectionRights(authorizer(), lambda: None)
    assert not rights.log_in("listeners", "first-key")
    assert not rights.log_in("", "")
    assert rights.log_in("Listeners", "q-key")
    assert rights.is_authenticated
    assert rights.allows("q/$management", Right.LISTEN)
    assert not rights.allows("q", Right.SEND)
    assert not rights.allows("other", Right.LISTEN)


def test_in_open_mode_no_token_is_needed() -> None:
    rights = ConnectionRights(UNCHECKED, lambda: None)
    assert rights.is_authenticated
    assert rights.log_in("anybody", "anything")
    assert rights.allows("q", Right.MANAGE)


# --- links and requests ------------------------------------------------------------------------------------------


def logged_in(name: str, key: str) -> Client:
    """A client of `q` with the rights of its policy."""
    one = Namespace(QueueSettings("q")).client()
    one.endpoint.rights = ConnectionRights(authorizer(), lambda: None)
    assert one.endpoint.rights.log_in(name, key)
    return one


@pytest.mark.parametrize(
    ("name", "key", "needed"), [("senders", "first-key", "Listen"), ("listeners", "q-key", "Send")]
)
def test_a_link_needs_the_right_for_its_direction(name: str, key: str, needed: str) -> None:
    one = logged_in(name, key)
    attach = one.receive if needed == "Listen" else lambda queue: one.send_to(Target(queue))
    attach("q")
    error = one.refused()
    assert error.condition == UNAUTHORIZED
    assert f"'{needed}' claim(s) are required" in str(error.description)


@pytest.mark.parametrize(
    ("operation", "needed"),
    [
        ("schedule-message", Right.SEND),
        ("cancel-scheduled-message", Right.SEND),
        ("peek-message", Right.LISTEN),
        ("update-disposition", Right.LISTEN),
        ("set-session-state", Right.LISTEN),
        ("batch-delete-messages", Right.LISTEN),
    ],
)
def test_each_management_request_needs_the_right_for_its_operation(operation: str, needed: Right) -> None:
    for allowed, name, key in ((Right.SEND, "senders", "first-key"), (Right.LISTEN, "listeners", "q-key")):
        one = logged_in(name, key)
        one.send_to(Target("q/$management"))
        one.receive("q/$management", 1, credit=10)
        asked = {"operation": f"com.microsoft:{operation}"}
        one.transfer(0, 0, section(APPLICATION_PROPERTIES, asked) + section(AMQP_VALUE, {}))
        (answer,) = one.deliveries()
        status = answer.section(APPLICATION_PROPERTIES)["statusCode"]  # type: ignore[index]  # a map
        assert (status == 401) is (allowed is not needed)
