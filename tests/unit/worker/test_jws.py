"""Signatures against Project Wycheproof's vectors; see tests/data/README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flow_worker.access import jws
from flow_worker.access.issuer import issuers_of
from flow_worker.access.keys import published_key

VECTORS = Path(__file__).parents[2] / "data" / "wycheproof" / "json_web_signature.json"
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ISSUER = issuers_of(["tenant"], authority="https://login.example", authority_v1="https://sts.example")[1]


def cases() -> Iterator[Any]:
    for group in json.loads(VECTORS.read_text(encoding="utf-8"))["testGroups"]:
        for case in group["tests"]:
            yield pytest.param(group["key"], case, id=f"{case['tcId']}-{group['comment']}-{case['comment']}")


def is_valid(entry: dict[str, object], token: str) -> bool:
    key = published_key({"kid": "any", **entry}, ISSUER)
    if key is None:
        return False
    try:
        jws.read(token).require_signature(key, ALGORITHMS)
    except jws.BadToken:
        return False
    return True


@pytest.mark.parametrize(("key", "case"), list(cases()))
def test_a_signature_is_valid_exactly_where_wycheproof_says_so(key: dict[str, object], case: dict[str, str]) -> None:
    """Three exceptions are stricter here: keys other than RSA, empty payloads, and RFC 7520's figure 20.

    Figure 20 is signed with PS384, while the vector's key is for PS256.
    """
    is_accepted_here = key["kty"] == "RSA" and case["comment"] not in {"emptyPayload", "Figure20"}
    assert is_valid(key, case["jws"]) is (is_accepted_here and case["result"] == "valid")
