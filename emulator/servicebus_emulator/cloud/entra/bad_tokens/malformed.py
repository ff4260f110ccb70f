"""Malformed tokens: texts that are no compact JWT, or a JWT that two parsers read differently."""

from __future__ import annotations

import json
import secrets

from servicebus_emulator.cloud.entra.bad_tokens.mint import Mint, Tokens, changed, encode

_DEEP = 100_000
_MIB = 1024 * 1024
_OTHER_OID = "99999999-9999-4999-8999-999999999999"


def malformed_tokens(mint: Mint) -> Tokens:
    """Return tokens that a validator must refuse before it reads a claim."""
    return _parts(mint) | _encodings(mint) | _duplicate_members(mint) | _invalid_json(mint) | _sizes(mint)


def _parts(mint: Mint) -> Tokens:
    valid = mint.with_header()
    header, payload, signature = valid.split(".")
    jwe = encode({"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": mint.issuer.key.kid})
    parts = [encode(secrets.token_bytes(size)) for size in (256, 12, 300, 16)]
    general = {"payload": payload, "signatures": [{"protected": header, "signature": signature}]}
    return {
        "empty": "",
        "dots": "..",
        "one_part": header,
        "four_parts": f"{valid}.AAAA",
        "jwe": ".".join((jwe, *parts)),
        "five_parts_of_a_jws": f"{valid}.AAAA.AAAA",
        "payload_empty": mint.signed(header, ""),
        "header_empty": mint.signed("", payload),
        "payload_detached": f"{header}..{signature}",
        "json_serialization": json.dumps(general),
        "nested": mint.signed(encode({**mint.valid_header, "cty": "JWT"}), encode(valid.encode())),
        "bearer_before": f"Bearer {valid}",
        "two_tokens": f"{valid} {valid}",
    }


def _encodings(mint: Mint) -> Tokens:
    valid = mint.with_header()
    header, payload, signature = valid.split(".")
    return {
        "non_ascii": f"{header}.{payload[:20]}é{payload[20:]}.{signature}",
        "non_ascii_dots": valid.replace(".", "．"),  # noqa: RUF001 - full-width on purpose
        "lone_surrogate": f"{header}.{payload}\ud800.{signature}",
        "newline_inside": f"{header}.{payload[:20]}\n{payload[20:]}.{signature}",
        "space_around": f" {valid} ",
        "nul_after": f"{valid}\0",
        "padded": mint.signed(f"{header}{'=' * (-len(header) % 4) or '===='}", payload),
        "not_base64": f"{header}.***.{signature}",
        "one_letter": f"{header}.A.{signature}",
        "base64_of_the_other_alphabet": mint.signed(header, f"{payload}+/"),
        "payload_not_utf8": mint.with_payload_bytes(b'{"oid": "\xff\xfe"}'),
        "payload_utf16": mint.with_payload_bytes(json.dumps(mint.valid_claims).encode("utf-16")),
        "payload_byte_order_mark": mint.with_payload_bytes(b"\xef\xbb\xbf" + json.dumps(mint.valid_claims).encode()),
    }


def _duplicate_members(mint: Mint) -> Tokens:
    """Return tokens with a duplicate member: parsers differ in which of the two counts (RFC 7519, section 4)."""
    claims = json.dumps(mint.valid_claims)[1:]
    rest = json.dumps(changed(mint.valid_header, {"alg": None}))[1:]
    return {
        "duplicate_oid": mint.with_payload_bytes(f'{{"oid": "{_OTHER_OID}", {claims}'.encode()),
        "duplicate_roles": mint.with_payload_bytes(f'{{"roles": ["Admin.All"], {claims}'.encode()),
        "duplicate_aud": mint.with_payload_bytes(f'{{"aud": "https://graph.microsoft.com", {claims}'.encode()),
        "duplicate_escaped": mint.with_payload_bytes(f'{{"\\u006fid": "{_OTHER_OID}", {claims}'.encode()),
        "duplicate_nested": mint.with_payload_bytes(f'{{"x": {{"a": 1, "a": 2}}, {claims}'.encode()),
        "duplicate_alg": mint.with_header_bytes(f'{{"alg": "none", "alg": "RS256", {rest}'.encode()),
        "duplicate_kid": mint.with_header_bytes(f'{{"kid": "x", {json.dumps(mint.valid_header)[1:]}'.encode()),
    }


def _invalid_json(mint: Mint) -> Tokens:
    claims = json.dumps(mint.valid_claims).encode()
    return {
        "payload_text": mint.with_payload_bytes(b"ada"),
        "payload_array": mint.with_payload_bytes(b"[" + claims + b"]"),
        "payload_string": mint.with_payload_bytes(json.dumps(claims.decode()).encode()),
        "payload_number": mint.with_payload_bytes(b"1"),
        "payload_null": mint.with_payload_bytes(b"null"),
        "payload_cut": mint.with_payload_bytes(claims[:-1]),
        "payload_with_more": mint.with_payload_bytes(claims + b"{}"),
        "payload_with_comment": mint.with_payload_bytes(claims[:-1] + b"/* */}"),
        "header_text": mint.with_header_bytes(b"RS256"),
        "header_array": mint.with_header_bytes(b"[" + json.dumps(mint.valid_header).encode() + b"]"),
        "header_null": mint.with_header_bytes(b"null"),
    }


def _sizes(mint: Mint) -> Tokens:
    deep = b"[" * _DEEP + b"]" * _DEEP
    return {
        "payload_of_1_mib": mint.with_claims(padding="x" * _MIB),
        "header_of_1_mib": mint.with_header(padding="x" * _MIB),
        "signature_of_1_mib": f"{mint.signing_input()}.{'A' * _MIB}",
        "dots_of_1_mib": "." * _MIB,
        "payload_deep": mint.with_payload_bytes(b'{"x": ' + deep + b", " + json.dumps(mint.valid_claims)[1:].encode()),
        "header_deep": mint.with_header_bytes(b'{"x": ' + deep + b", " + json.dumps(mint.valid_header)[1:].encode()),
        "payload_deep_objects": mint.with_payload_bytes(b'{"a":' * _DEEP + b"1" + b"}" * _DEEP),
    }
