"""An issuer's keys are cached, refreshed, asked for again with restraint, and kept while it cannot be reached."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from jwt.algorithms import RSAAlgorithm

from worker.access.keys import IssuerKeys
from worker.errors import NotKnownYet

ISSUER = "https://login.example/tenant/v2.0"
JWK = RSAAlgorithm.to_jwk(generate_private_key(public_exponent=65_537, key_size=2048).public_key(), as_dict=True)
HOUR = 3600.0


@dataclass
class Issuer:
    """An issuer behind httpx's own transport seam, with a clock to turn."""

    kids: list[str] = field(default_factory=lambda: ["k1"])
    now: float = 0.0
    down: bool = False
    discovery: dict[str, object] = field(
        default_factory=lambda: {"issuer": ISSUER, "jwks_uri": "https://login.example/keys"}
    )
    asked: int = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)  # as over a network: others ask meanwhile
        if self.down:
            raise httpx.ConnectError("down")
        if request.url.path.endswith("openid-configuration"):
            self.asked += 1
            return httpx.Response(200, json=self.discovery)
        return httpx.Response(200, json={"keys": [JWK | {"kid": kid, "use": "sig"} for kid in self.kids]})

    def keys(self) -> IssuerKeys:
        return IssuerKeys(
            httpx.AsyncClient(transport=httpx.MockTransport(self.answer)),
            lifetime_seconds=24 * HOUR,
            refresh_seconds=HOUR,
            cooldown_seconds=300,
            fetch_seconds=5,
            now=lambda: self.now,
        )


async def test_keys_are_fetched_once_and_kept() -> None:
    issuer = Issuer()
    keys = issuer.keys()
    found = await asyncio.gather(*(keys.find(ISSUER, "k1") for _ in range(20)))
    assert all(found)
    assert issuer.asked == 1


async def test_keys_are_refreshed_hourly() -> None:
    issuer = Issuer()
    keys = issuer.keys()
    await keys.find(ISSUER, "k1")
    issuer.now = HOUR + 1
    await keys.find(ISSUER, "k1")
    assert issuer.asked == 2


async def test_an_unknown_key_is_asked_for_again_at_most_every_five_minutes() -> None:
    issuer = Issuer()
    keys = issuer.keys()
    assert await keys.find(ISSUER, "k2") is None
    issuer.kids = ["k1", "k2"]
    issuer.now = 299
    assert await keys.find(ISSUER, "k2") is None
    assert issuer.asked == 1
    issuer.now = 301
    assert await keys.find(ISSUER, "k2") is not None
    assert issuer.asked == 2


async def test_the_last_good_keys_stay_in_use_while_the_issuer_is_down_for_a_day_at_most() -> None:
    issuer = Issuer()
    keys = issuer.keys()
    await keys.find(ISSUER, "k1")
    issuer.down = True
    issuer.now = 23 * HOUR
    assert await keys.find(ISSUER, "k1") is not None
    issuer.now = 24 * HOUR + 1
    with pytest.raises(NotKnownYet):
        await keys.find(ISSUER, "k1")


async def test_without_any_keys_it_is_not_known_yet_and_soon_asked_again() -> None:
    issuer = Issuer(down=True)
    keys = issuer.keys()
    with pytest.raises(NotKnownYet, match="signing keys"):
        await keys.find(ISSUER, "k1")
    issuer.down = False
    issuer.now = 6
    assert await keys.find(ISSUER, "k1") is not None


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://evil.example", "jwks_uri": "https://login.example/keys"},
        {"issuer": ISSUER, "jwks_uri": "http://login.example/keys"},
        {"issuer": ISSUER},
        {"issuer": ISSUER, "jwks_uri": 5},
    ],
)
async def test_a_discovery_document_that_does_not_hold_is_not_followed(discovery: dict[str, object]) -> None:
    issuer = Issuer(discovery=discovery)
    with pytest.raises(NotKnownYet):
        await issuer.keys().find(ISSUER, "k1")
