"""Issuers' signing keys, by OpenID discovery: cached, refreshed, and kept while the issuer cannot be reached.

Entra rolls keys without a schedule and asks its clients to cache for a day, refresh hourly, and look again for an
unknown key at most every five minutes (Microsoft Learn, "Signing key rollover").
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import httpx
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWTError
from jwt.algorithms import RSAAlgorithm

from flow_worker.access.issuer import Issuer
from flow_worker.access.jws import SigningKey
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_MAX_DOCUMENT_BYTES = 1024 * 1024
_MIN_KEY_BITS = 2048  # RFC 7518, section 3.3


@dataclass
class _Held:
    """What is held of one issuer. Times are of the injected clock; minus infinity: never."""

    keys: dict[str, SigningKey] = field(default_factory=dict)
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class IssuerKeys:
    """Signing keys of any number of issuers. Concurrent questions for one issuer fetch once."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        lifetime_seconds: float,
        refresh_seconds: float,
        cooldown_seconds: float,
        fetch_seconds: float,
        failure_pause_seconds: float = 5.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._lifetime = lifetime_seconds
        self._refresh = refresh_seconds
        self._cooldown = cooldown_seconds
        self._deadline = fetch_seconds
        self._failure_pause = failure_pause_seconds
        self._now = now
        self._held: dict[Issuer, _Held] = {}

    async def find(self, issuer: Issuer, kid: str) -> SigningKey | None:
        """See `SigningKeys.find`."""
        held = self._held.setdefault(issuer, _Held())
        if self._wants_fetch(held, kid) or (held.lock.locked() and kid not in held.keys):  # it may be on its way
            async with held.lock:
                if self._wants_fetch(held, kid):
                    await self._fetch(issuer, held)
        if self._now() - held.fetched_at > self._lifetime:
            raise TemporarilyUnavailable("keys_unavailable", f"the signing keys of {issuer.name} cannot be had")
        if kid not in held.keys and held.tried_at > held.fetched_at:
            raise TemporarilyUnavailable("keys_unavailable", f"the newest signing keys of {issuer.name} cannot be had")
        return held.keys.get(kid)

    def _wants_fetch(self, held: _Held, kid: str) -> bool:
        now = self._now()
        if now - held.tried_at < self._failure_pause:
            return False
        age = now - held.fetched_at
        return age > self._refresh or (kid not in held.keys and age > self._cooldown)

    async def _fetch(self, issuer: Issuer, held: _Held) -> None:
        """Replace the issuer's keys; keep the last good ones if they cannot be had."""
        held.tried_at = self._now()
        try:
            async with asyncio.timeout(self._deadline):
                keys = await self._published_keys(issuer)
        except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, TimeoutError, ValueError) as error:
            log(
                _log,
                logging.WARNING,
                "keys.unavailable",
                f"The signing keys of {issuer.name} could not be fetched; "
                + ("the last good ones stay in use." if held.keys else "claims wait until they can."),
                error=f"{type(error).__name__}: {error}"[:300],
            )
            return
        held.keys, held.fetched_at = keys, self._now()

    async def _published_keys(self, issuer: Issuer) -> dict[str, SigningKey]:
        discovery = await self._document(issuer.metadata)
        if discovery.get("issuer") != issuer.name:
            raise ValueError("the discovery document is another issuer's")
        where = discovery.get("jwks_uri")
        if not isinstance(where, str) or not where.startswith("https:" if issuer.name.startswith("https:") else "http"):
            raise ValueError("the discovery document names no usable jwks_uri")
        entries = (await self._document(where)).get("keys")
        if not isinstance(entries, list):
            raise ValueError("the key set has no list of keys")  # noqa: TRY004 - one error for every bad answer
        keys = {key.kid: key for entry in entries if (key := published_key(entry, issuer))}
        if not keys:
            raise ValueError("the key set has no key that could sign this issuer's tokens")
        return keys

    async def _document(self, url: str) -> dict[str, object]:
        response = await self._client.get(url)
        response.raise_for_status()
        if len(response.content) > _MAX_DOCUMENT_BYTES:
            raise ValueError("the answer is too large")
        document = response.json()
        if not isinstance(document, dict):
            raise ValueError("the answer is not a JSON object")  # noqa: TRY004 - one error for every bad answer
        return document


def published_key(entry: object, issuer: Issuer) -> SigningKey | None:
    """An entry of a key set (RFC 7517, section 4), if it is a public RSA key that may sign this issuer's tokens."""
    if not isinstance(entry, dict) or not _verifies(entry) or not issuer.may_sign_with(entry.get("issuer")):
        return None
    try:
        public = RSAAlgorithm.from_jwk(entry)
    except (PyJWTError, ValueError, TypeError):
        return None  # one broken entry does not take the others away
    if not isinstance(public, RSAPublicKey) or public.key_size < _MIN_KEY_BITS:
        return None
    return SigningKey(entry["kid"], public, entry.get("alg"))


def _verifies(entry: Mapping[str, object]) -> bool:
    """Whether it says that it is there to verify signatures, and says so by a name."""
    if entry.get("kty") != "RSA" or "d" in entry or not isinstance(entry.get("kid"), str):
        return False
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
