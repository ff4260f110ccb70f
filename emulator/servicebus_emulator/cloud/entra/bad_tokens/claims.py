"""Wrong claims, each in a token that is otherwise right and rightly signed."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pydantic import JsonValue

from servicebus_emulator.cloud.entra.bad_tokens.mint import Mint, Tokens
from servicebus_emulator.cloud.entra.issuer import OTHER_TENANT_ID

REQUIRED = ("exp", "nbf", "iss", "aud", "tid", "oid", "ver")
_HOUR = 3600
_LOOKALIKES = str.maketrans("aceiopsxyACEHIKMOPSTX", "асеіорѕхуАСЕНІКМОРЅТХ")  # noqa: RUF001 - Cyrillic on purpose


def claims(mint: Mint) -> Tokens:
    """Tokens whose header and signature are right."""
    return _issuers(mint) | _audiences(mint) | _absent(mint) | _times(mint) | _ids(mint) | _roles(mint)


def _each(mint: Mint, claim: str, values: Mapping[str, JsonValue]) -> Tokens:
    return {f"{claim}_{name}": mint.claiming(**{claim: value}) for name, value in values.items()}


def _issuers(mint: Mint) -> Tokens:
    tenant, right = mint.right["tid"], str(mint.right["iss"])
    v1, v2 = mint.issuer.v1(tenant), mint.issuer.v2(tenant)
    elsewhere = {"ver": "2.0", "iss": mint.issuer.v2(OTHER_TENANT_ID)}
    wrong: Mapping[str, JsonValue] = {
        "of_another_tenant": elsewhere["iss"],
        "with_a_slash": f"{right}/",
        "with_more": f"{right}.evil.example",
        "shorter": right[:-1],
        "upper": right.upper(),
        "with_a_space": f"{right} ",
        "common": mint.issuer.v2("common"),
        "of_another_host": f"https://evil.example/{tenant}/v2.0",
        "array": [right],
        "empty": "",
        "number": 1,
    }
    return _each(mint, "iss", wrong) | {
        "iss_v1_in_version_2": mint.claiming(ver="2.0", iss=v1),
        "iss_v2_in_version_1": mint.claiming(ver="1.0", iss=v2),
        "iss_v1_without_slash": mint.claiming(ver="1.0", iss=v1.rstrip("/")),
        "iss_and_tid_of_another_tenant": mint.claiming(**elsewhere, tid=str(OTHER_TENANT_ID)),
        "tid_of_another_tenant": mint.claiming(tid=str(OTHER_TENANT_ID)),
        "ver_unknown": mint.claiming(ver="3.0"),
        "ver_number": mint.claiming(ver=2),
    }


def _audiences(mint: Mint) -> Tokens:
    right = str(mint.right["aud"])
    wrong: Mapping[str, JsonValue] = {
        "graph": "https://graph.microsoft.com",
        "graph_id": "00000003-0000-0000-c000-000000000000",
        "dataverse": "https://contoso.crm4.dynamics.com",
        "flow": "https://service.flow.microsoft.com/",
        "array": [right, "https://graph.microsoft.com"],
        "array_of_one": [right],
        "object": {right: True},
        "shorter": right[:-1],
        "with_more": f"{right}-admin",
        "with_a_slash": f"{right}/",
        "with_a_scope": f"{right}/.default",
        "upper": right.upper(),
        "empty": "",
        "number": 1,
    }
    return _each(mint, "aud", wrong)


def _absent(mint: Mint) -> Tokens:
    missing = {f"missing_{claim}": mint.claiming(**{claim: None}) for claim in REQUIRED}
    null = {f"null_{claim}": mint.with_literal(claim, "null") for claim in REQUIRED}
    neither = mint.claiming(scp=None, roles=None, idtyp=None)
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
        "expired": mint.claiming(iat=now - 2 * _HOUR, nbf=now - 2 * _HOUR, exp=now - _HOUR),
        "not_yet_valid": mint.claiming(nbf=now + _HOUR, exp=now + 2 * _HOUR),
    }


def _ids(mint: Mint) -> Tokens:
    oid = str(mint.right["oid"])
    wrong: Mapping[str, JsonValue] = {
        "empty": "",
        "name": "ada",
        "zeros": "00000000-0000-0000-0000-000000000000",
        "array": [oid],
        "number": 1,
        "quoted": f"'{oid}'",
        "odata": f"{oid},PrivilegeNames=@q)?@q=['prvReadAccount']&x=(",
        "with_newline": f"{oid}\n",
    }
    return _each(mint, "oid", wrong) | {
        "tid_no_guid": mint.claiming(tid="contoso"),
        "tid_path": mint.claiming(tid=f"{mint.right['tid']}/../{OTHER_TENANT_ID}"),
    }


def _roles(mint: Mint) -> Tokens:
    """The role is there, but not as one of a list of texts; or what is there only looks like it."""
    given = mint.right.get("roles")
    role = str(given[0]) if isinstance(given, list) and given else "Quotes.Create"
    wrong: Mapping[str, JsonValue] = {
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
    return _each(mint, "roles", wrong) | {
        "roles_in_scp": mint.claiming(roles=None, scp=role),
        "roles_in_groups": mint.claiming(roles=None, groups=[role]),
        "groups_overage": mint.claiming(roles=None, **overage),
    }
