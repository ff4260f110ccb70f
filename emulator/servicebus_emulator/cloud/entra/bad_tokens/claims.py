"""Tokens with one bad claim each, otherwise valid and correctly signed."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pydantic import JsonValue

from servicebus_emulator.cloud.entra.bad_tokens.mint import Mint, Tokens
from servicebus_emulator.cloud.entra.issuer import OTHER_TENANT_ID

REQUIRED = ("exp", "nbf", "iss", "aud", "tid", "oid", "ver")
_HOUR = 3600
_LOOKALIKES = str.maketrans("aceiopsxyACEHIKMOPSTX", "асеіорѕхуАСЕНІКМОРЅТХ")  # noqa: RUF001 - Cyrillic on purpose


def tokens_with_bad_claims(mint: Mint) -> Tokens:
    """Return tokens with a bad claim each, whose header and signature are valid."""
    return _issuers(mint) | _audiences(mint) | _absent(mint) | _times(mint) | _ids(mint) | _roles(mint) | _bound(mint)


def _each(mint: Mint, claim: str, values: Mapping[str, JsonValue]) -> Tokens:
    return {f"{claim}_{name}": mint.with_claims(**{claim: value}) for name, value in values.items()}


def _issuers(mint: Mint) -> Tokens:
    tenant, valid = mint.valid_claims["tid"], str(mint.valid_claims["iss"])
    v1, v2 = mint.issuer.v1(tenant), mint.issuer.v2(tenant)
    other_tenant = {"ver": "2.0", "iss": mint.issuer.v2(OTHER_TENANT_ID)}
    bad: Mapping[str, JsonValue] = {
        "of_another_tenant": other_tenant["iss"],
        "with_a_slash": f"{valid}/",
        "with_more": f"{valid}.evil.example",
        "shorter": valid[:-1],
        "upper": valid.upper(),
        "with_a_space": f"{valid} ",
        "common": mint.issuer.v2("common"),
        "of_another_host": f"https://evil.example/{tenant}/v2.0",
        "array": [valid],
        "empty": "",
        "number": 1,
    }
    return _each(mint, "iss", bad) | {
        "iss_v1_in_version_2": mint.with_claims(ver="2.0", iss=v1),
        "iss_v2_in_version_1": mint.with_claims(ver="1.0", iss=v2),
        "iss_v1_without_slash": mint.with_claims(ver="1.0", iss=v1.rstrip("/")),
        "iss_and_tid_of_another_tenant": mint.with_claims(**other_tenant, tid=str(OTHER_TENANT_ID)),
        "tid_of_another_tenant": mint.with_claims(tid=str(OTHER_TENANT_ID)),
        "ver_unknown": mint.with_claims(ver="3.0"),
        "ver_number": mint.with_claims(ver=2),
    }


def _audiences(mint: Mint) -> Tokens:
    valid = str(mint.valid_claims["aud"])
    bad: Mapping[str, JsonValue] = {
        "graph": "https://graph.microsoft.com",
        "graph_id": "00000003-0000-0000-c000-000000000000",
        "dataverse": "https://contoso.crm4.dynamics.com",
        "flow": "https://service.flow.microsoft.com/",
        "array": [valid, "https://graph.microsoft.com"],
        "array_of_one": [valid],
        "object": {valid: True},
        "shorter": valid[:-1],
        "with_more": f"{valid}-admin",
        "with_a_slash": f"{valid}/",
        "with_a_scope": f"{valid}/.default",
        "upper": valid.upper(),
        "empty": "",
        "number": 1,
    }
    return _each(mint, "aud", bad)


def _absent(mint: Mint) -> Tokens:
    missing = {f"missing_{claim}": mint.with_claims(**{claim: None}) for claim in REQUIRED}
    null = {f"null_{claim}": mint.with_literal(claim, "null") for claim in REQUIRED}
    neither = mint.with_claims(scp=None, roles=None, idtyp=None)
    return missing | null | {"neither_scp_nor_roles": neither}


def _times(mint: Mint) -> Tokens:
    now = int(time.time())
    literals = {
        "exp_string": f'"{now + _HOUR}"',
        "exp_float": f"{now + _HOUR}.5",
        "exp_exponent": "1e300",
        "exp_infinite": "1e999",
        "exp_infinity": "Infinity",
        "exp_nan": "NaN",
        "exp_huge": "9" * 400,
        "exp_beyond_digits": "9" * 5000,
        "exp_beyond_years": "99999999999999",
        "exp_negative": "-1",
        "exp_true": "true",
        "exp_array": f"[{now + _HOUR}]",
        "exp_object": "{}",
        "exp_empty": '""',
        "nbf_string": f'"{now}"',
        "nbf_minus_infinity": "-1e999",
    }
    return {name: mint.with_literal(name.partition("_")[0], literal) for name, literal in literals.items()} | {
        "expired": mint.with_claims(iat=now - 2 * _HOUR, nbf=now - 2 * _HOUR, exp=now - _HOUR),
        "nbf_after_exp": mint.with_claims(iat=now, nbf=now + 60, exp=now + 10),
        "nbf_at_exp": mint.with_claims(nbf=now, exp=now),
        "iat_after_exp": mint.with_claims(iat=now + 60, exp=now + 10),
        "iat_string": mint.with_claims(iat=str(now)),
        "iat_true": mint.with_claims(iat=True),
        "lifetime_of_25_hours": mint.with_claims(exp=now + 25 * _HOUR),
        "lifetime_of_25_hours_since_iat": mint.with_claims(iat=now - 24 * _HOUR, exp=now + _HOUR),
        "lifetime_of_years": mint.with_claims(exp=now + 50_000 * _HOUR),
        "issued_later": mint.with_claims(iat=now + _HOUR, exp=now + 2 * _HOUR),
        "not_yet_valid": mint.with_claims(nbf=now + _HOUR, exp=now + 2 * _HOUR),
    }


def _bound(mint: Mint) -> Tokens:
    """Return proof-of-possession tokens, which come without their proof, and tokens of events."""
    confirmations: Mapping[str, JsonValue] = {
        "jwk": {"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}},
        "kid": {"kid": "k"},
        "thumbprint": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"},
        "empty": {},
        "text": "",
        "false": False,
    }
    return _each(mint, "cnf", confirmations) | {
        "cnf_null": mint.with_literal("cnf", "null"),
        "events_logout": mint.with_claims(events={"http://schemas.openid.net/event/backchannel-logout": {}}),
    }


def _ids(mint: Mint) -> Tokens:
    oid = str(mint.valid_claims["oid"])
    bad: Mapping[str, JsonValue] = {
        "empty": "",
        "name": "ada",
        "zeros": "00000000-0000-0000-0000-000000000000",
        "array": [oid],
        "number": 1,
        "quoted": f"'{oid}'",
        "odata": f"{oid},PrivilegeNames=@q)?@q=['prvReadAccount']&x=(",
        "with_newline": f"{oid}\n",
    }
    return _each(mint, "oid", bad) | {
        "tid_no_guid": mint.with_claims(tid="contoso"),
        "tid_path": mint.with_claims(tid=f"{mint.valid_claims['tid']}/../{OTHER_TENANT_ID}"),
    }


def _roles(mint: Mint) -> Tokens:
    """Return tokens whose `roles` is no list of strings, or contains only a lookalike of the role."""
    roles = mint.valid_claims.get("roles")
    role = str(roles[0]) if isinstance(roles, list) and roles else "Quotes.Create"
    bad: Mapping[str, JsonValue] = {
        "string": role,
        "string_with_spaces": f"Other.Role {role}",
        "string_of_json": f'["{role}"]',
        "nested": [[role]],
        "object": {role: True},
        "of_objects": [{"value": role}],
        "number": 1,
        "true": True,
        "homoglyph": [role.translate(_LOOKALIKES)],
        "fullwidth": ["".join(chr(ord(letter) + 0xFEE0) for letter in role)],
        "zero_width": [f"{role[:1]}\u200b{role[1:]}"],
        "case": [role.swapcase()],
        "with_a_space": [f"{role} "],
        "with_nul": [f"{role}\0"],
        "longer": [f"{role}.All"],
        "shorter": [role[:-1]],
        "wildcard": ["*"],
        "joined": [f"Other.Role,{role}"],
        "empty": [],
    }
    overage: dict[str, JsonValue] = {
        "_claim_names": {"groups": "src1"},
        "_claim_sources": {"src1": {"endpoint": "https://graph.example/getMemberObjects"}},
    }
    return _each(mint, "roles", bad) | {
        "roles_in_scp": mint.with_claims(roles=None, scp=role),
        "roles_in_groups": mint.with_claims(roles=None, groups=[role]),
        "groups_overage": mint.with_claims(roles=None, **overage),
    }
