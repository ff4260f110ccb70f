"""Issuers' signing keys, by OpenID discovery: cached, refreshed, and kept while the issuer is unreachable.

Entra rolls keys without a schedule. It asks its clients to cache keys for a day and to refresh them hourly. For an
unknown key, a client may fetch again at most every five minutes (Microsoft Learn, "Signing key rollover").

An application can have signing keys of its own. Entra publishes them only in the key set of its client ID, `?appid=`
(Microsoft Learn, "Access tokens").
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import aiohttp
import httpx
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWTError
from jwt.algorithms import RSAAlgorithm

from flow_worker.access.issuer import Issuer
from flow_worker.access.jws import SigningKey
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.telemetry.instruments import Timer
from flow_worker.telemetry.logs import log
from flow_worker.telemetry.metrics import timing

_log = logging.getLogger(__name__)
_MAX_DOCUMENT_BYTES = 1024 * 1024
_MIN_KEY_BITS = 2048  # RFC 7518, section 3.3


_NO_KEYS_STATUSES = frozenset({400, 404, 410})
"""The issuer's definite answers that an application has no keys. Every other failure can pass."""


@dataclass
class _CachedKeys:
    """One key set of an issuer, by `kid`. Times are of the injected clock; minus infinity means never."""

    client_id: str | None = None
    """The application whose keys these are; None for the keys that sign for every application."""
    keys: dict[str, SigningKey] = field(default_factory=dict)
    fetched_at: float = float("-inf")
    """The last successful fetch."""
    tried_at: float = float("-inf")
    """The last fetch, successful or not."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class IssuerKeys:
    """The signing keys of any number of issuers. Concurrent callers share one fetch per issuer."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        lifetime_seconds: float,
        refresh_seconds: float,
        cooldown_seconds: float,
        fetch_seconds: float,
        failure_pause_seconds: float = 5.0,
        client_ids: Collection[str] = (),
        now: Callable[[], float] = time.monotonic,
        timer: Timer | None = None,
    ) -> None:
        """`lifetime_seconds`: the age up to which keys stay in use without a successful fetch.

        `refresh_seconds`: the age at which the worker fetches keys again. `cooldown_seconds`: the age at which an
        unknown `kid` causes a fetch. `fetch_seconds`: the deadline of one fetch. `failure_pause_seconds`: the least
        time between two fetches of one key set, to spare an issuer that is down. `client_ids`: the applications whose
        own keys may sign, too. `timer` records the duration of each fetch.
        """
        self._client = client
        self._timer = timer
        self._lifetime = lifetime_seconds
        self._refresh = refresh_seconds
        self._cooldown = cooldown_seconds
        self._deadline = fetch_seconds
        self._failure_pause = failure_pause_seconds
        self._now = now
        self._client_ids = tuple(sorted(client_ids))
        self._cache: dict[Issuer, tuple[_CachedKeys, ...]] = {}

    async def find(self, issuer: Issuer, kid: str) -> SigningKey | None:
        """See `SigningKeys.find`.

        The applications' key sets come last and only for a `kid` that the issuer's own set lacks.
        """
        key_sets = self._cache.get(issuer)
        if key_sets is None:
            key_sets = self._cache[issuer] = tuple(_CachedKeys(client) for client in (None, *self._client_ids))
        # The first key set with the `kid` decides, so that no application's key takes the place of the issuer's.
        known = next((cached for cached in key_sets if kid in cached.keys), None)
        if known is not None and self._now() - known.fetched_at <= self._refresh:
            return known.keys[kid]
        outage: TemporarilyUnavailable | None = None
        for cached in key_sets:
            try:
                # During an outage, the known keys of the applications still count, but nothing more is fetched.
                key = await self._find_in(cached, issuer, kid, may_fetch=outage is None)
            except TemporarilyUnavailable as error:
                outage = outage or error
                continue
            if key is not None:
                return key
        if outage is not None:
            raise outage
        return None

    async def _find_in(self, cached: _CachedKeys, issuer: Issuer, kid: str, *, may_fetch: bool) -> SigningKey | None:
        """Return the key of one key set, or None if the set lacks it. Raises `TemporarilyUnavailable`."""
        # A held lock means a running fetch, which can bring an unknown key. Callers with a known key do not wait.
        if may_fetch and (self._needs_fetch(cached, kid) or (cached.lock.locked() and kid not in cached.keys)):
            async with cached.lock:
                if self._needs_fetch(cached, kid):  # the previous holder of the lock may have fetched meanwhile
                    await self._fetch(issuer, cached)
        if self._now() - cached.fetched_at > self._lifetime:
            raise TemporarilyUnavailable("keys_unavailable", f"the signing keys of {issuer.name} are unavailable")
        if kid not in cached.keys and cached.tried_at > cached.fetched_at:
            # The last fetch failed, so the unknown key may be a new one: neither accept nor refuse its tokens.
            raise TemporarilyUnavailable(
                "keys_unavailable", f"the newest signing keys of {issuer.name} are unavailable"
            )
        return cached.keys.get(kid)

    def _needs_fetch(self, cached: _CachedKeys, kid: str) -> bool:
        """Return whether the keys are old, or lack `kid` and are older than the cool-down.

        Anybody can send a token with an invented `kid`. Without the cool-down each one would cost a fetch, and the
        issuer would throttle the worker.
        """
        now = self._now()
        if now - cached.tried_at < self._failure_pause:
            return False
        age = now - cached.fetched_at
        return age > self._refresh or (kid not in cached.keys and age > self._cooldown)

    async def _fetch(self, issuer: Issuer, cached: _CachedKeys) -> None:
        """Replace the issuer's keys, or keep the last good ones if the fetch fails.

        Keys outlive an unreachable issuer because signatures by them stay valid. An outage of the issuer must not stop
        requests whose keys are known. `lifetime_seconds` bounds the time for which a withdrawn key could stay in use.
        """
        # Before the fetch, so that a failed or cancelled fetch also starts the failure pause.
        cached.tried_at = self._now()
        try:
            with timing(self._timer):
                async with asyncio.timeout(self._deadline):
                    keys = await self.published_keys(issuer, cached.client_id)
        except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, TimeoutError, ValueError) as error:
            log(
                _log,
                logging.WARNING,
                "keys.unavailable",
                f"The worker could not fetch the signing keys of {issuer.name}; "
                + ("the last good ones stay in use." if cached.keys else "requests wait until it can."),
                error=f"{type(error).__name__}: {error}"[:300],
            )
            return
        cached.keys, cached.fetched_at = keys, self._now()

    async def published_keys(self, issuer: Issuer, client_id: str | None = None) -> dict[str, SigningKey]:
        """Fetch a key set past the cache. Raises `httpx.HTTPError`, and `ValueError` for an unusable answer."""
        if client_id is None:
            keys = await self._key_set(issuer, None)
            if not keys:
                # An empty answer is a fault of the issuer's, not a withdrawal: it must not replace the last good keys.
                raise ValueError("the key set has no key that could sign this issuer's tokens")
            return keys
        try:
            return await self._key_set(issuer, client_id)
        except httpx.HTTPStatusError as error:
            # Otherwise an application without keys would look like an outage, and each invented `kid` would wait.
            if error.response.status_code in _NO_KEYS_STATUSES:
                return {}
            raise

    async def _key_set(self, issuer: Issuer, client_id: str | None) -> dict[str, SigningKey]:
        discovery = await self._document(_of_application(issuer.metadata, client_id))
        # OpenID Connect Discovery 1.0, section 4.3: otherwise one issuer could publish keys for another.
        if discovery.get("issuer") != issuer.name:
            raise ValueError("the discovery document is another issuer's")
        url = discovery.get("jwks_uri")
        # An https issuer must not send the worker to plain http, where anybody on the way could replace the keys.
        if not isinstance(url, str) or not url.startswith("https:" if issuer.name.startswith("https:") else "http"):
            raise ValueError("the discovery document names no usable jwks_uri")
        entries = (await self._document(_of_application(url, client_id))).get("keys")
        if not isinstance(entries, list):
            raise ValueError("the key set has no list of keys")  # noqa: TRY004 - one error type for every bad answer
        return {key.kid: key for entry in entries if (key := published_key(entry, issuer, client_id))}

    async def _document(self, url: str) -> dict[str, object]:
        response = await self._client.get(url)
        response.raise_for_status()
        if len(response.content) > _MAX_DOCUMENT_BYTES:
            raise ValueError("the answer is too large")
        document = response.json()
        if not isinstance(document, dict):
            raise ValueError("the answer is not a JSON object")  # noqa: TRY004 - one error type for every bad answer
        return document


def _of_application(url: str, client_id: str | None) -> str:
    return url if client_id is None else str(httpx.URL(url).copy_set_param("appid", client_id))


def published_key(entry: object, issuer: Issuer, client_id: str | None = None) -> SigningKey | None:
    """Return the key in a key set's entry (RFC 7517, section 4); None if it cannot verify the issuer's tokens.

    `client_id`: the application whose key set has the entry.
    """
    if not isinstance(entry, dict) or not _verifies(entry) or not issuer.may_sign_with(entry.get("issuer")):
        return None
    try:
        public = RSAAlgorithm.from_jwk(entry)
    except (PyJWTError, ValueError, TypeError):
        return None  # one broken entry must not make the other keys unusable
    if not isinstance(public, RSAPublicKey) or public.key_size < _MIN_KEY_BITS:
        return None
    return SigningKey(entry["kid"], public, entry.get("alg"), client_id)


def _verifies(entry: Mapping[str, object]) -> bool:
    """Return whether the entry has a name and is for verifying signatures.

    `d` is the private exponent. A key set with a private key has leaked it, so signatures by it prove nothing.
    """
    if entry.get("kty") != "RSA" or "d" in entry or not isinstance(entry.get("kid"), str):
        return False
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
