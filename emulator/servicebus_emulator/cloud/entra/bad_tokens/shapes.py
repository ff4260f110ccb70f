"""What is no compact JWT, or is one that two readers would read in two ways."""

from __future__ import annotations

import json
import secrets

from servicebus_emulator.cloud.entra.bad_tokens.mint import Mint, Tokens, changed, text

_DEEP = 100_000
_MIB = 1024 * 1024
_OTHER_OID = "99999999-9999-4999-8999-999999999999"


def shapes(mint: Mint) -> Tokens:
    """Tokens that are wrong before any claim is looked at."""
    return _parts(mint) | _encodings(mint) | _twice(mint) | _json(mint) | _sizes(mint)


def _parts(mint: Mint) -> Tokens:
    right = mint.headed()
    header, payload, signature = right.split(".")
    jwe = text({"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": mint.issuer.key.kid})
    parts = [text(secrets.token_bytes(size)) for size in (256, 12, 300, 16)]
    general = {"payload": payload, "signatures": [{"protected": header, "signature": signature}]}
    return {
        "empty": "",
        "dots": "..",
        "one_part": header,
        "four_parts": f"{right}.AAAA",
        "jwe": ".".join((jwe, *parts)),
        "five_parts_of_a_jws": f"{right}.AAAA.AAAA",
        "payload_empty": mint.signed(header, ""),
        "header_empty": mint.signed("", payload),
        "payload_detached": f"{header}..{signature}",
        "json_serialization": json.dumps(general),
        "nested": mint.signed(text({**mint.header, "cty": "JWT"}), text(right.encode())),
        "bearer_before": f"Bearer {right}",
        "two_tokens": f"{right} {right}",
    }


def _encodings(mint: Mint) -> Tokens:
    right = mint.headed()
    header, payload, signature = right.split(".")
    return {
        "non_ascii": f"{header}.{payload[:20]}é{payload[20:]}.{signature}",
        "non_ascii_dots": right.replace(".", "．"),  # noqa: RUF001 - full-width on purpose
        "lone_surrogate": f"{header}.{payload}\ud800.{signature}",
        "newline_inside": f"{header}.{payload[:20]}\n{payload[20:]}.{signature}",
        "space_around": f" {right} ",
        "nul_after": f"{right}\0",
        "padded": mint.signed(f"{header}{'=' * (-len(header) % 4) or '===='}", payload),
        "not_base64": f"{header}.***.{signature}",
        "one_letter": f"{header}.A.{signature}",
        "base64_of_the_other_alphabet": mint.signed(header, f"{payload}+/"),
        "payload_not_utf8": mint.with_payload(b'{"oid": "\xff\xfe"}'),
        "payload_utf16": mint.with_payload(json.dumps(mint.right).encode("utf-16")),
        "payload_byte_order_mark": mint.with_payload(b"\xef\xbb\xbf" + json.dumps(mint.right).encode()),
    }


def _twice(mint: Mint) -> Tokens:
    """A member that is there twice: which one counts is up to the reader."""
    claims = json.dumps(mint.right)[1:]
    rest = json.dumps(changed(mint.header, {"alg": None}))[1:]
    return {
        "duplicate_oid": mint.with_payload(f'{{"oid": "{_OTHER_OID}", {claims}'.encode()),
        "duplicate_roles": mint.with_payload(f'{{"roles": ["Admin.All"], {claims}'.encode()),
        "duplicate_aud": mint.with_payload(f'{{"aud": "https://graph.microsoft.com", {claims}'.encode()),
        "duplicate_escaped": mint.with_payload(f'{{"\\u006fid": "{_OTHER_OID}", {claims}'.encode()),
        "duplicate_nested": mint.with_payload(f'{{"x": {{"a": 1, "a": 2}}, {claims}'.encode()),
        "duplicate_alg": mint.with_header(f'{{"alg": "none", "alg": "RS256", {rest}'.encode()),
        "duplicate_kid": mint.with_header(f'{{"kid": "x", {json.dumps(mint.header)[1:]}'.encode()),
    }


def _json(mint: Mint) -> Tokens:
    claims = json.dumps(mint.right).encode()
    return {
        "payload_text": mint.with_payload(b"ada"),
        "payload_array": mint.with_payload(b"[" + claims + b"]"),
        "payload_string": mint.with_payload(json.dumps(claims.decode()).encode()),
        "payload_number": mint.with_payload(b"1"),
        "payload_null": mint.with_payload(b"null"),
        "payload_cut": mint.with_payload(claims[:-1]),
        "payload_with_more": mint.with_payload(claims + b"{}"),
        "payload_with_comment": mint.with_payload(claims[:-1] + b"/* */}"),
        "header_text": mint.with_header(b"RS256"),
        "header_array": mint.with_header(b"[" + json.dumps(mint.header).encode() + b"]"),
        "header_null": mint.with_header(b"null"),
    }


def _sizes(mint: Mint) -> Tokens:
    deep = b"[" * _DEEP + b"]" * _DEEP
    return {
        "payload_of_1_mib": mint.claiming(padding="x" * _MIB),
        "header_of_1_mib": mint.headed(padding="x" * _MIB),
        "signature_of_1_mib": f"{mint.unsigned()}.{'A' * _MIB}",
        "dots_of_1_mib": "." * _MIB,
        "payload_deep": mint.with_payload(b'{"x": ' + deep + b", " + json.dumps(mint.right)[1:].encode()),
        "header_deep": mint.with_header(b'{"x": ' + deep + b", " + json.dumps(mint.header)[1:].encode()),
        "payload_deep_objects": mint.with_payload(b'{"a":' * _DEEP + b"1" + b"}" * _DEEP),
    }
