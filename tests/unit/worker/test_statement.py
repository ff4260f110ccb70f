"""The gateway's statements: what a worker accepts, and every way in which a text is no valid statement."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, SecretStr

from flow_contracts import strict_json
from flow_contracts.request import FlowRequest
from flow_worker.access import jws
from flow_worker.access.authorities import BoundRequest, ProvenSender
from flow_worker.access.input_hash import input_hash
from flow_worker.access.principal import Principal
from flow_worker.access.statement import Statement, StatementSigner, sign, verify
from flow_worker.access.statement_keys import StatementKey, new_signing_key, private_pem, public_jwks

KEY, FOREIGN = new_signing_key(), new_signing_key()
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
TENANT, USER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
SENDER = ProvenSender(
    Principal(TENANT, USER, "user", frozenset({"Quotes.Start", "Other"}), "entra"),
    {"scp": "flows", "azp": "client", "nonce": "n-1"},
)
REQUEST = FlowRequest(
    flow="create-quote", input={"amount": 1.5}, message_id="m1", correlation_id="m1", reply_to_session_id="m1"
)
STATEMENT = Statement(
    gateway="flow-gateway",
    request=BoundRequest("requests", "m1", "create-quote", input_hash({"amount": 1.5})),
    principal=Principal(TENANT, USER, "user", frozenset({"Quotes.Start", "Other"}), "gateway"),
    issued_at=int(NOW.timestamp()),
    expires_at=int(NOW.timestamp()) + 120,
    client="client",
    scopes="flows",
    bound_to="n-1",
)
PAYLOAD: dict[str, Any] = json.loads(base64.urlsafe_b64decode(sign(STATEMENT, KEY).split(".")[1] + "=="))


class Keys:
    """The public keys of these tests."""

    async def find(self, kid: str) -> StatementKey | None:
        return KEY.verifying if kid == KEY.kid else None


HEADER: dict[str, Any] = {"alg": "ES256", "typ": "flow-statement+jwt", "kid": KEY.kid}


def encoded(part: bytes | JsonValue) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(payload: bytes | None = None, key: Any = None, algorithm: str = "ES256", **header: object) -> str:
    """Return a token with a valid signature over this payload."""
    headers = {"typ": "flow-statement+jwt", "kid": KEY.kid} | header
    body = json.dumps(PAYLOAD).encode() if payload is None else payload
    return jwt.PyJWS().encode(body, key or KEY.private, algorithm, headers)


def changed(**members: object) -> str:
    """Return a statement, validly signed, with these members; `...` leaves one out."""
    payload = {name: value for name, value in (PAYLOAD | members).items() if value is not ...}
    return forged(json.dumps(payload).encode())


async def refusal(text: str) -> str:
    with pytest.raises(jws.BadToken) as refused:
        await verify(text, Keys())
    message = str(refused.value)
    assert not any(part in message for part in (USER, "Quotes", text[:20] or USER))
    return message


# --- what is accepted ----------------------------------------------------------------------------------------------


async def test_a_signer_states_the_principal_and_the_one_request() -> None:
    signer = StatementSigner(
        KEY, issuer="flow-gateway", queue="Requests", lifetime_seconds=120, binding_claim="nonce", now=lambda: NOW
    )
    claim = signer.signed(REQUEST, SENDER).claim
    assert isinstance(claim, SecretStr)
    assert await verify(claim.get_secret_value(), Keys()) == STATEMENT


async def test_an_asserters_statement_names_the_user_it_acts_for() -> None:
    signer = StatementSigner(
        KEY, issuer="flow-gateway", queue="requests", lifetime_seconds=10, binding_claim="nonce", now=lambda: NOW
    )
    app = ProvenSender(
        Principal(TENANT, USER, "app", frozenset(), "entra", on_behalf_of="ignored"),
        {"appid": "a", "azp": "other", "ver": "1.0"},
    )
    claim = signer.signed(REQUEST.model_copy(update={"on_behalf_of": TENANT}), app).claim
    assert claim is not None
    statement = await verify(claim.get_secret_value(), Keys())
    assert statement.request.on_behalf_of == TENANT
    assert statement.principal == Principal(TENANT, USER, "app", frozenset(), "gateway")
    assert (statement.client, statement.scopes, statement.bound_to) == ("a", None, None)


@pytest.mark.parametrize("value", ["", "x" * 5000, None, 1, ["n"], {"n": 1}])
async def test_a_token_claim_of_another_form_is_left_out_of_the_statement(value: JsonValue) -> None:
    """The worker then sees an unbound token, and one without permissions: it permits less, never more."""
    signer = StatementSigner(
        KEY, issuer="flow-gateway", queue="requests", lifetime_seconds=120, binding_claim="nonce", now=lambda: NOW
    )
    sender = replace(SENDER, claims={"nonce": value, "scp": value, "azp": value})
    claim = signer.signed(REQUEST, sender).claim
    assert claim is not None
    statement = await verify(claim.get_secret_value(), Keys())
    assert (statement.bound_to, statement.scopes, statement.client) == (None, None, None)


async def test_a_signature_has_its_length_also_if_a_number_of_it_is_short() -> None:
    for issued_at in range(100_000):  # each number begins with a zero by chance, one time in 256
        text = sign(replace(STATEMENT, issued_at=issued_at), KEY)
        signature = base64.urlsafe_b64decode(text.rsplit(".", 1)[1] + "==")
        assert len(signature) == 64
        if 0 in (signature[0], signature[32]):
            assert (await verify(text, Keys())).issued_at == issued_at
            return
    pytest.fail("no signature has a short number")


async def test_a_statement_is_short_and_holds_no_token() -> None:
    text = sign(STATEMENT, KEY)
    assert len(text) < 1100
    assert text.startswith("eyJ")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=4), each, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_the_inputs_hash_survives_the_message(value: JsonValue) -> None:
    try:
        body = strict_json.dump(value)
    except strict_json.NotJson:
        return
    assert input_hash(strict_json.parse(body)) == input_hash(value)


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (0, False), (1, True), ("1", 1), ([], {}), (None, "null"), ({"a": 1}, {"a": 2})]
)
def test_different_inputs_have_different_hashes(one: JsonValue, other: JsonValue) -> None:
    assert input_hash(one) != input_hash(other)


def test_the_order_of_an_inputs_members_does_not_matter() -> None:
    assert input_hash({"a": 1, "b": [2]}) == input_hash({"b": [2], "a": 1})


# --- signatures ----------------------------------------------------------------------------------------------------


def hmac_with_the_public_key(secret: bytes) -> str:
    """The classic forgery: an HMAC with the public key as the secret. PyJWT refuses it, so it is made by hand."""
    head = encoded(HEADER | {"alg": "HS256"})
    signed = f"{head}.{encoded(PAYLOAD)}"
    return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), 'sha256'))}"


def unsigned(algorithm: str, signature: bytes) -> str:
    head = encoded(HEADER | {"alg": algorithm})
    return f"{head}.{encoded(PAYLOAD)}.{encoded(signature)}"


def tampered(**members: object) -> str:
    """A true signature over another payload."""
    head, _, signature = sign(STATEMENT, KEY).split(".")
    return f"{head}.{encoded(PAYLOAD | members)}.{signature}"


SIGNATURES: dict[str, Callable[[], str]] = {
    "a foreign key under its own ID": lambda: forged(key=FOREIGN.private, kid=FOREIGN.kid),
    "a foreign key under the known ID": lambda: forged(key=FOREIGN.private),
    "another curve": lambda: forged(key=ec.generate_private_key(ec.SECP384R1()), algorithm="ES384"),
    "another curve under the known name": lambda: unsigned("ES256", b"\0" * 96),
    "RSA": lambda: forged(key=rsa.generate_private_key(65537, 2048), algorithm="RS256"),
    "Ed25519": lambda: forged(key=ed25519.Ed25519PrivateKey.generate(), algorithm="EdDSA"),
    "none": lambda: unsigned("none", b""),
    "none with a signature": lambda: unsigned("none", b"x"),
    "None in another case": lambda: unsigned("NonE", b"x" * 64),
    "HS256 with the public PEM": lambda: hmac_with_the_public_key(public_jwks([KEY.verifying])),
    "zeros (CVE-2022-21449)": lambda: unsigned("ES256", b"\0" * 64),
    "a signature of no bytes": lambda: unsigned("ES256", b""),
    "a DER signature": lambda: unsigned("ES256", KEY.private.sign(b"x", ec.ECDSA(SHA256()))),
    "a changed role": lambda: tampered(roles=["Admin"]),
    "a changed user": lambda: tampered(oid=TENANT),
    "a changed flow": lambda: tampered(flow="other"),
    "a changed expiry": lambda: tampered(exp=PAYLOAD["exp"] + 9999),
    "a header that is not signed": lambda: f"{encoded(HEADER | {'x': 1})}.{sign(STATEMENT, KEY).split('.', 1)[1]}",
}


@pytest.mark.parametrize("name", SIGNATURES)
async def test_a_statement_without_the_gateways_signature_is_refused(name: str) -> None:
    await refusal(SIGNATURES[name]())


# --- headers -------------------------------------------------------------------------------------------------------

KIDS: list[Any] = [
    None,
    "",
    1,
    True,
    [],
    {},
    [KEY.kid],
    "x" * 10_000,
    KEY.kid.upper(),
    f"{KEY.kid} ",
    f"../{KEY.kid}",
    "\0",
]


# Numbers, because the IDs of a random key differ between the processes of the tests, which must collect the same tests.
@pytest.mark.parametrize("kid", KIDS, ids=range(len(KIDS)))
async def test_a_key_id_of_another_form_finds_no_key(kid: object) -> None:
    await refusal(forged(kid=kid) if isinstance(kid, str) else with_header(kid=kid))


def with_header(**members: Any) -> str:
    """Return a token with a valid signature and any header: PyJWT refuses to write some of them."""
    header = HEADER | members
    signed = f"{encoded({name: value for name, value in header.items() if value is not ...})}.{encoded(PAYLOAD)}"
    return f"{signed}.{encoded(raw_signature(signed.encode()))}"


def raw_signature(content: bytes) -> bytes:
    r, s = decode_dss_signature(KEY.private.sign(content, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


async def test_the_hand_made_header_is_accepted_as_such() -> None:
    assert await verify(with_header(), Keys()) == STATEMENT


HEADERS: dict[str, dict[str, object]] = {
    "no type": {"typ": ...},
    "the type of an access token": {"typ": "at+jwt"},
    "the type JWT": {"typ": "JWT"},
    "a list as type": {"typ": ["flow-statement+jwt"]},
    "the Kelvin sign in the type": {"typ": "flow-statement+jwt".replace("t", "\u212a", 1)},
    "no algorithm": {"alg": ...},
    "null as algorithm": {"alg": None},
    "a list of algorithms": {"alg": ["ES256"]},
    "no key ID": {"kid": ...},
    "a key of its own": {"jwk": json.loads(public_jwks([FOREIGN.verifying]))["keys"][0], "kid": FOREIGN.kid},
    "a URL of keys": {"jku": "https://attacker.example/keys", "kid": "x"},
    "a critical extension": {"crit": ["exp"], "exp": 1},
    "an empty critical extension": {"crit": []},
    "unencoded payload": {"b64": False},
    "compression": {"zip": "DEF"},
    "encryption": {"enc": "A128GCM"},
    "a nested token": {"cty": "JWT"},
}


@pytest.mark.parametrize("name", HEADERS)
async def test_a_header_of_another_kind_is_refused(name: str) -> None:
    await refusal(with_header(**HEADERS[name]))


# --- payloads ------------------------------------------------------------------------------------------------------

MEMBERS: dict[str, dict[str, object]] = {
    **{f"no {name}": {name: ...} for name in PAYLOAD if name not in ("azp", "scp", "bound_to")},
    **{f"null {name}": {name: None} for name in PAYLOAD},
    **{f"a list as {name}": {name: [PAYLOAD[name]]} for name in PAYLOAD if name != "roles"},
    **{f"a number as {name}": {name: 1} for name in PAYLOAD if name not in ("iat", "exp")},
    "a text as time": {"exp": str(PAYLOAD["exp"])},
    "a fraction as time": {"exp": PAYLOAD["exp"] + 0.5},
    "true as time": {"iat": True},
    "a negative time": {"iat": -1},
    "a time beyond the calendar": {"exp": 10**15},
    "a user ID in upper case": {"oid": "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA"},
    "a user ID in braces": {"oid": f"{{{USER}}}"},
    "the nil ID": {"oid": "00000000-0000-0000-0000-000000000000"},
    "another kind": {"kind": "system"},
    "roles as text": {"roles": "Quotes.Start"},
    "a null role": {"roles": [None]},
    "nested roles": {"roles": [["Quotes.Start"]]},
    "a hash in upper case": {"input_sha256": PAYLOAD["input_sha256"].upper()},
    "a short hash": {"input_sha256": "00"},
    "a hash with a line break": {"input_sha256": PAYLOAD["input_sha256"] + "\n"},
    "an empty message ID": {"jti": ""},
    "an endless flow": {"flow": "f" * 129},
    "several queues": {"aud": ["requests", "other"]},
    "a member of a later version": {"once": True},
    "an authority of its own": {"authority": "entra"},
}


@pytest.mark.parametrize("name", MEMBERS)
async def test_a_signed_payload_of_another_form_is_refused(name: str) -> None:
    await refusal(changed(**MEMBERS[name]))


TEXTS: dict[str, bytes] = {
    "a duplicate member": json.dumps(PAYLOAD)[:-1].encode() + b', "roles": ["Admin"]}',
    "a duplicate member, escaped": json.dumps(PAYLOAD)[:-1].encode() + rb', "rol\u0065s": ["Admin"]}',
    "an array": b"[]",
    "null": b"null",
    "no JSON": b"statement",
    "nothing": b"",
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(PAYLOAD).encode(),
    "UTF-16": json.dumps(PAYLOAD).encode("utf-16"),
    "NaN": json.dumps(PAYLOAD)[:-1].encode() + b', "x": NaN}',
    "deep nesting": b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
    "two documents": json.dumps(PAYLOAD).encode() * 2,
}


@pytest.mark.parametrize("name", TEXTS)
async def test_a_signed_text_that_two_parsers_read_differently_is_refused(name: str) -> None:
    await refusal(forged(TEXTS[name]) if TEXTS[name] else unsigned("ES256", b"x" * 64))


# --- texts ---------------------------------------------------------------------------------------------------------

GOOD = sign(STATEMENT, KEY)
FORMS: dict[str, str] = {
    "empty": "",
    "one part": "eyJhbGciOiJFUzI1NiJ9",
    "two parts": GOOD.rsplit(".", 1)[0],
    "four parts": f"{GOOD}.x",
    "a line break at the end": f"{GOOD}\n",
    "a space at the front": f" {GOOD}",
    "padding": f"{GOOD}=",
    "another base64 alphabet": GOOD.replace("-", "+").replace("_", "/") + "+",
    "JSON serialization": json.dumps(dict(zip(("protected", "payload", "signature"), GOOD.split("."), strict=True))),
    "huge": GOOD + "A" * 100_000,
    "a token in a token": forged(GOOD.encode()),
    "not ASCII": GOOD[:-1] + "\u00e9",
    "a lone surrogate": GOOD[:-1] + "\ud800",
}


@pytest.mark.parametrize("name", FORMS)
async def test_a_text_that_is_no_compact_token_is_refused(name: str) -> None:
    await refusal(FORMS[name])


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="utf-8"))
async def test_no_changed_character_leaves_another_valid_statement(place: int, character: str) -> None:
    text = GOOD[:place] + character + GOOD[place + 1 :]
    if text != GOOD:
        await refusal(text)


def test_no_representation_shows_the_private_key() -> None:
    assert "PRIVATE" in private_pem(KEY).decode()
    assert str(KEY.private.private_numbers().private_value) not in repr(KEY)
    assert "private" not in repr(KEY)


async def test_a_statement_of_another_key_is_accepted_with_that_key_only() -> None:
    text = sign(replace(STATEMENT, gateway="other"), FOREIGN)
    await refusal(text)

    class Foreign:
        async def find(self, kid: str) -> StatementKey | None:
            return FOREIGN.verifying

    assert (await verify(text, Foreign())).gateway == "other"
