"""Bad tokens: each has the defect in its name, and no other."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256

from servicebus_emulator.cloud.entra.bad_tokens import mint_bad_tokens
from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer, SigningKey, TokenRequest

CORRECTLY_SIGNED = (
    "aud_",
    "iss_",
    "tid_",
    "oid_",
    "roles_",
    "exp_",
    "nbf_",
    "missing_",
    "null_",
    "duplicate_",
    "payload_",
)
NOT_SIGNED = {"payload_detached"}
BY_ATTACKER = ("jku", "x5u", "x5c", "jwk", "signature_")


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer("http://127.0.0.1:5380", IdentityDefinition())


@pytest.fixture(scope="module")
def tokens(issuer: Issuer) -> Mapping[str, str]:
    return mint_bad_tokens(issuer, TokenRequest(user="ada", roles=("Quotes.Create",)))


def part(token: str, index: int) -> bytes:
    text = token.split(".")[index]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def header(token: str) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(part(token, 0))
    return members


def is_signed(token: str, key: SigningKey) -> bool:
    signed, _, _ = token.rpartition(".")
    try:
        key.private.public_key().verify(part(token, -1), signed.encode(), padding.PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def test_all_bad_tokens_differ_and_the_valid_token_is_not_among_them(issuer: Issuer, tokens: Mapping[str, str]) -> None:
    assert len(tokens) > 200
    assert len(set(tokens.values())) == len(tokens)
    assert issuer.mint(TokenRequest(user="ada", roles=("Quotes.Create",))) not in tokens.values()


def test_tokens_with_bad_claims_or_bad_json_are_correctly_signed(issuer: Issuer, tokens: Mapping[str, str]) -> None:
    signed = {name for name in tokens if name.startswith(CORRECTLY_SIGNED)} - NOT_SIGNED
    assert len(signed) > 100
    assert [name for name in sorted(signed) if not is_signed(tokens[name], issuer.key)] == []


def test_tokens_with_a_bad_key_id_are_correctly_signed(issuer: Issuer, tokens: Mapping[str, str]) -> None:
    other = "kid_of_another_issuers_key"
    assert is_signed(tokens[other], issuer.other_tenants_key)
    assert header(tokens[other])["kid"] == issuer.other_tenants_key.kid
    ours = {name for name in tokens if name.startswith("kid_")} - {other}
    assert [name for name in ours if not is_signed(tokens[name], issuer.key)] == []
    assert issuer.key.kid not in [header(tokens[name]).get("kid") for name in ours]


def test_a_token_that_points_to_another_key_is_signed_by_that_key(issuer: Issuer, tokens: Mapping[str, str]) -> None:
    names = [name for name in tokens if name.startswith(("jku", "x5u", "x5c", "jwk"))]
    assert len(names) == 7
    for name in names:
        assert is_signed(tokens[name], issuer.forgers_key), name
        assert name.partition("_")[0] in header(tokens[name])
    assert not any(is_signed(token, issuer.key) for name, token in tokens.items() if name.startswith(BY_ATTACKER))


def test_a_lookalike_role_differs_from_the_role(tokens: Mapping[str, str]) -> None:
    for name in ("homoglyph", "fullwidth", "zero_width", "case", "with_a_space", "with_nul"):
        (role,) = json.loads(part(tokens[f"roles_{name}"], 1))["roles"]
        assert role != "Quotes.Create", name
        assert role.strip(" \0").replace("\u200b", "").casefold() == "quotes.create" or not role.isascii()


def test_large_tokens_exceed_1_mib_and_deep_tokens_exhaust_the_json_parser(tokens: Mapping[str, str]) -> None:
    assert all(len(token) >= 1024 * 1024 for name, token in tokens.items() if name.endswith("of_1_mib"))
    for name in ("payload_deep", "payload_deep_objects"):
        with pytest.raises(RecursionError):
            json.loads(part(tokens[name], 1))


def test_the_variants_of_an_app_only_token_are_app_only(issuer: Issuer) -> None:
    request = TokenRequest(user="plug-in", app=True, version="1.0", roles=("Flow.Invoke.OnBehalf",))
    claims = json.loads(part(mint_bad_tokens(issuer, request)["aud_graph"], 1))
    assert (claims["idtyp"], claims["ver"], "scp" in claims) == ("app", "1.0", False)
