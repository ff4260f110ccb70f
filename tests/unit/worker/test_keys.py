"""An issuer's keys are cached, refreshed, fetched again with a cool-down, and kept while it is unreachable."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from jwt.algorithms import RSAAlgorithm

from flow_worker.access.issuer import Issuer, issuers_of
from flow_worker.access.keys import IssuerKeys
from flow_worker.errors import TemporarilyUnavailable

V1, V2 = issuers_of(["tenant"], authority="https://login.example", authority_v1="https://sts.example")
JWK = RSAAlgorithm.to_jwk(generate_private_key(public_exponent=65_537, key_size=2048).public_key(), as_dict=True)
HOUR = 3600.0


def entry(kid: str, **members: object) -> dict[str, object]:
    return {**JWK, "kid": kid, "use": "sig", **members}


@dataclass
class Publisher:
    """An issuer behind httpx's mock transport, with a clock that the test sets."""

    kids: list[str] = field(default_factory=lambda: ["k1"])
    now: float = 0.0
    down: bool = False
    discovery: dict[str, object] = field(
        default_factory=lambda: {"issuer": V2.name, "jwks_uri": "https://login.example/keys"}
    )
    entries: list[object] | None = None
    fetches: int = 0
    of_applications: dict[str, list[str]] = field(default_factory=dict)
    """The `kid`s that only the key set of a client ID contains."""
    application_status: int = 200
    """The status of every answer with a client ID."""
    asked: list[str] = field(default_factory=list)
    """The client IDs whose key sets were fetched."""

    async def answer(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)  # as over a network: other callers run meanwhile
        if self.down:
            raise httpx.ConnectError("down")
        if request.url.path.endswith("openid-configuration"):
            self.fetches += 1
            return httpx.Response(200, json=self.discovery)
        client = request.url.params.get("appid")
        if client is not None:
            self.asked.append(client)
            own = [entry(kid) for kid in self.of_applications.get(client, [])]
            return httpx.Response(self.application_status, json={"keys": own})
        entries = [entry(kid) for kid in self.kids] if self.entries is None else self.entries
        return httpx.Response(200, json={"keys": entries})

    def keys(self, *client_ids: str) -> IssuerKeys:
        return IssuerKeys(
            httpx.AsyncClient(transport=httpx.MockTransport(self.answer)),
            lifetime_seconds=24 * HOUR,
            refresh_seconds=HOUR,
            cooldown_seconds=300,
            fetch_seconds=5,
            client_ids=client_ids,
            now=lambda: self.now,
        )


async def test_concurrent_callers_share_one_fetch() -> None:
    issuer = Publisher()
    keys = issuer.keys()
    found = await asyncio.gather(*(keys.find(V2, "k1") for _ in range(20)))
    assert all(found)
    assert issuer.fetches == 1


async def test_keys_are_refreshed_hourly() -> None:
    issuer = Publisher()
    keys = issuer.keys()
    await keys.find(V2, "k1")
    issuer.now = HOUR + 1
    await keys.find(V2, "k1")
    assert issuer.fetches == 2


async def test_an_unknown_key_causes_a_fetch_at_most_every_five_minutes() -> None:
    issuer = Publisher()
    keys = issuer.keys()
    assert await keys.find(V2, "k2") is None
    issuer.kids = ["k1", "k2"]
    issuer.now = 299
    assert await keys.find(V2, "k2") is None
    assert issuer.fetches == 1
    issuer.now = 301
    assert await keys.find(V2, "k2") is not None
    assert issuer.fetches == 2


async def test_the_last_good_keys_stay_in_use_for_at_most_a_day_while_the_issuer_is_down() -> None:
    issuer = Publisher()
    keys = issuer.keys()
    await keys.find(V2, "k1")
    issuer.down = True
    issuer.now = 23 * HOUR
    assert await keys.find(V2, "k1") is not None
    issuer.now = 24 * HOUR + 1
    with pytest.raises(TemporarilyUnavailable):
        await keys.find(V2, "k1")


async def test_an_unknown_key_is_temporarily_unavailable_while_the_issuer_is_down() -> None:
    issuer = Publisher()
    keys = issuer.keys()
    await keys.find(V2, "k1")
    issuer.down, issuer.now = True, HOUR + 1
    with pytest.raises(TemporarilyUnavailable, match="newest"):
        await keys.find(V2, "k2")
    assert await keys.find(V2, "k1") is not None


async def test_a_failed_first_fetch_is_retried_after_a_short_pause() -> None:
    issuer = Publisher(down=True)
    keys = issuer.keys()
    with pytest.raises(TemporarilyUnavailable, match="signing keys"):
        await keys.find(V2, "k1")
    issuer.down = False
    issuer.now = 6
    assert await keys.find(V2, "k1") is not None


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://evil.example", "jwks_uri": "https://login.example/keys"},
        {"issuer": V2.name, "jwks_uri": "http://login.example/keys"},
        {"issuer": V2.name},
        {"issuer": V2.name, "jwks_uri": 5},
    ],
)
async def test_an_invalid_discovery_document_is_not_followed(discovery: dict[str, object]) -> None:
    issuer = Publisher(discovery=discovery)
    with pytest.raises(TemporarilyUnavailable):
        await issuer.keys().find(V2, "k1")


async def test_both_issuers_of_a_tenant_have_their_metadata_at_the_authority() -> None:
    assert V1.name == "https://sts.example/tenant/"
    assert V1.metadata == "https://login.example/tenant/.well-known/openid-configuration"
    assert V2.metadata == "https://login.example/tenant/v2.0/.well-known/openid-configuration"
    issuer = Publisher(discovery={"issuer": V1.name, "jwks_uri": "https://login.example/keys"})
    assert await issuer.keys().find(V1, "k1") is not None


@pytest.mark.parametrize(
    ("restriction", "is_usable"),
    [
        (V2.name, True),
        ("https://login.example/{tenantid}/v2.0", True),
        (None, True),
        (V1.name, False),
        ("https://login.example/other/v2.0", False),
        ("https://login.example/{tenantId}/v2.0", False),
        ("", False),
        (5, False),
    ],
)
async def test_a_key_restricted_to_an_issuer_signs_for_no_other_issuer(restriction: object, *, is_usable: bool) -> None:
    issuer = Publisher(entries=[entry("free"), entry("k1", issuer=restriction)])
    keys = issuer.keys()
    assert (await keys.find(V2, "k1") is not None) is is_usable
    assert await keys.find(V2, "free") is not None


@pytest.mark.parametrize(
    "broken",
    [
        5,
        None,
        {"kid": "k1"},
        entry("k1", n="!"),
        entry("k1", e=5),
        entry("k1", use="enc"),
        entry("k1", key_ops=["encrypt"]),
        entry("k1", key_ops="verify"),
        entry("k1", kty="oct", k="c2VjcmV0"),
        entry("k1", d="AQAB"),
        entry("k1", n="AQAB"),
    ],
)
async def test_an_unusable_key_does_not_make_the_others_unusable(broken: object) -> None:
    keys = Publisher(entries=[broken, entry("k2")]).keys()
    assert await keys.find(V2, "k2") is not None
    assert await keys.find(V2, "k1") is None


async def test_a_key_set_without_a_usable_key_does_not_replace_the_last_good_one() -> None:
    issuer = Publisher()
    keys = issuer.keys()
    await keys.find(V2, "k1")
    for entries in ([], [entry("k1", use="enc")]):
        issuer.entries = list(entries)
        issuer.now += HOUR + 1
        assert await keys.find(V2, "k1") is not None
    assert issuer.fetches == 3


# --- application-specific keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V1, V2], ids=["1.0", "2.0"])
async def test_an_unknown_key_is_searched_in_the_key_set_of_each_application(version: Issuer) -> None:
    discovery: dict[str, object] = {"issuer": version.name, "jwks_uri": "https://login.example/keys?v=1"}
    issuer = Publisher(of_applications={"b": ["own"]}, discovery=discovery)
    keys = issuer.keys("a", "b")
    found = await keys.find(version, "own")
    assert found is not None
    assert found.client_id == "b"
    shared = await keys.find(version, "k1")
    assert shared is not None
    assert shared.client_id is None
    assert issuer.asked == ["a", "b"]


async def test_a_known_key_asks_for_no_applications_keys() -> None:
    issuer = Publisher(of_applications={"a": ["own"]})
    assert await issuer.keys("a").find(V2, "k1") is not None
    assert issuer.asked == []


async def test_invented_keys_cost_one_search_per_application_and_cool_down() -> None:
    issuer = Publisher(of_applications={"a": ["own"]})
    keys = issuer.keys("a", "b")
    for number in range(50):
        assert await keys.find(V2, f"invented-{number}") is None
    assert issuer.asked == ["a", "b"]
    assert await keys.find(V2, "own") is not None
    issuer.now = 301
    issuer.of_applications["a"] = ["own", "new"]
    assert await keys.find(V2, "new") is not None
    assert issuer.asked == ["a", "b", "a"]


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_an_application_without_keys_is_no_outage(status: int) -> None:
    issuer = Publisher(application_status=status)
    assert await issuer.keys("a").find(V2, "k2") is None


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 503])
async def test_an_unavailable_key_set_of_an_application_is_neither_a_yes_nor_a_no(status: int) -> None:
    issuer = Publisher(of_applications={"a": ["own"]}, application_status=status)
    keys = issuer.keys("a")
    with pytest.raises(TemporarilyUnavailable):
        await keys.find(V2, "own")
    assert await keys.find(V2, "k1") is not None
    issuer.application_status, issuer.now = 200, 6
    assert await keys.find(V2, "own") is not None


async def test_an_applications_key_stays_in_use_while_the_issuer_is_down() -> None:
    issuer = Publisher(of_applications={"a": ["own"]})
    keys = issuer.keys("a")
    await keys.find(V2, "own")
    issuer.down, issuer.now = True, 23 * HOUR
    assert await keys.find(V2, "own") is not None
    issuer.now = 24 * HOUR + 1
    with pytest.raises(TemporarilyUnavailable):
        await keys.find(V2, "own")


async def test_no_applications_key_takes_the_place_of_the_issuers_key() -> None:
    issuer = Publisher(of_applications={"a": ["own", "k1"]})
    keys = issuer.keys("a")
    await keys.find(V2, "k1")
    issuer.now = HOUR - 1
    await keys.find(V2, "own")
    issuer.now = HOUR + 1  # the issuer's own set is old, the application's is not
    found = await keys.find(V2, "k1")
    assert found is not None
    assert found.client_id is None


async def test_a_withdrawn_key_of_an_application_is_unknown_after_the_refresh() -> None:
    issuer = Publisher(of_applications={"a": ["own"]})
    keys = issuer.keys("a")
    assert await keys.find(V2, "own") is not None
    issuer.of_applications, issuer.now = {}, HOUR + 1
    assert await keys.find(V2, "own") is None
