"""Checks that each issuer of the senders' claims publishes keys that can verify them."""

from __future__ import annotations

from functools import partial

import httpx

from flow_worker.access.issuer import Issuer, issuers_of
from flow_worker.access.keys import IssuerKeys
from flow_worker.doctor.causes import reason, with_proxy
from flow_worker.doctor.finding import Check, Result, failed, ok
from flow_worker.settings import Settings

_REMEDY = "Correct claims.tenants and claims.authority, or the network to the issuer."


def checks(settings: Settings, client: httpx.AsyncClient) -> list[Check]:
    """Return one check for each issuer."""
    claims = settings.claims
    keys = IssuerKeys(
        client,
        lifetime_seconds=claims.keys_lifetime_seconds,
        refresh_seconds=claims.keys_refresh_seconds,
        cooldown_seconds=claims.unknown_key_cooldown_seconds,
        fetch_seconds=claims.fetch_seconds,
    )
    issuers = issuers_of(claims.tenants, authority=settings.authority, authority_v1=settings.authority_v1)
    return [
        Check(
            "issuer keys",
            f"{issuer.name} (v{issuer.version})",
            partial(_check, keys, issuer),
            claims.fetch_seconds,
        )
        for issuer in issuers
    ]


async def _check(keys: IssuerKeys, issuer: Issuer) -> Result:
    remedy = with_proxy(_REMEDY, issuer.name)
    try:
        found = await keys.published_keys(issuer)
    except httpx.HTTPStatusError as error:
        return failed(f"the issuer answered {error.response.status_code}", remedy)
    except httpx.HTTPError as error:
        return failed(f"the issuer is unreachable ({reason(error)})", remedy)
    except ValueError as error:
        return failed(f"the answer is unusable: {error}", remedy)
    return ok(f"{len(found)} {'key' if len(found) == 1 else 'keys'}")
