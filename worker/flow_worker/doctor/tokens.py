"""Checks that the worker's identity gets its tokens, and that each is for the audience that its receiver compares."""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import json
import os
import time
from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit

from flow_worker.azure_identity import ManagedIdentity, Tokens, credential_for
from flow_worker.doctor.finding import Check, Result, failed, ok, unseen
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import Settings

_SERVICE_BUS_SCOPE = "https://servicebus.azure.net/.default"
_CONNECT_SECONDS = 3.0
_MAX_TIME = 1e12
_MAX_SHOWN_CHARACTERS = 100
_SHOWN = ("aud", "oid", "appid", "azp")
_IDENTITY_REMEDY = (
    "Assign the managed identity to this machine or container, and set identity.client_id if it is user-assigned. On "
    "the emulator set IDENTITY_ENDPOINT and IDENTITY_HEADER."
)


def checks(settings: Settings, identity: ManagedIdentity) -> list[Check]:
    """Return one check for each token."""
    flow_scope = settings.facts.flow_scope
    found = [Check("token", "flows", partial(_check, identity.tokens(flow_scope), _audience(flow_scope)))]
    found += [
        Check("token", f"Dataverse {url}", partial(_check, identity.tokens(f"{url}/.default"), url))
        for url in settings.dataverse_urls
    ]
    if settings.servicebus.namespace is not None:
        found.append(Check("token", "Service Bus", partial(_check_service_bus, settings)))
    return found


def _audience(scope: str) -> str:
    """Return the resource of a scope: `https://service.flow.microsoft.com/` of `…com//.default`."""
    return scope.removesuffix("/.default")


async def _check_service_bus(settings: Settings) -> Result:
    credential = credential_for(settings.servicebus, settings.identity.client_id)
    if credential is None:
        return unseen("a connection string needs no token")
    async with credential:
        tokens = Tokens(credential, _SERVICE_BUS_SCOPE, deadline_seconds=settings.identity.token_seconds)
        return await _check(tokens, _audience(_SERVICE_BUS_SCOPE))


async def _check(tokens: Tokens, audience: str) -> Result:
    try:
        token = await tokens.token()
    except TemporarilyUnavailable as error:
        return await _unavailable(error)
    claims = token_claims(token)
    if claims is None:
        return unseen("the token is not readable, so its audience and expiry are not known")
    shown = _shown(claims)
    if not _same_audience(claims.get("aud"), audience):
        return failed(
            f"the token is for another audience than {audience}: {shown}",
            "Correct cloud (flows compare the audience exactly) or dataverse.url.",
        )
    left = _seconds_left(claims)
    if left is not None and left <= 0:
        return failed(f"the token has expired: {shown}", "Synchronise this machine's clock.")
    return ok(shown)


async def _unavailable(error: TemporarilyUnavailable) -> Result:
    endpoint = urlsplit(os.environ.get("IDENTITY_ENDPOINT", ""))
    address = f"{endpoint.hostname}:{endpoint.port}"
    if endpoint.hostname and endpoint.port and await _refuses(endpoint.hostname, endpoint.port):
        detail = f"{error.message}: {address}, the address in IDENTITY_ENDPOINT, refuses the connection"
        return failed(detail, "Start the emulator (`servicebus-emulator serve`), or correct IDENTITY_ENDPOINT.")
    if endpoint.hostname and _status_of(error) in (401, 403):
        remedy = "Set IDENTITY_HEADER to the endpoint's current one; `servicebus-emulator settings` prints it."
        return failed(f"{error.message}{_status(error)}", remedy)
    return failed(f"{error.message}{_status(error)}", _IDENTITY_REMEDY)


async def _refuses(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        # Several addresses of one name give one error without a number.
        return isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error)
    writer.close()
    return False


def token_claims(token: str) -> Mapping[str, object] | None:
    """Return the token claims of a JWT, unverified; None if it is none."""
    try:
        part = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, binascii.Error, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _same_audience(found: object, expected: str) -> bool:
    # Service Bus and Dataverse ignore a trailing slash; a flow does not, so its expected audience has one.
    return found == expected or (not expected.endswith("/") and found == f"{expected}/")


def _shown(claims: Mapping[str, object]) -> str:
    texts = [f"{name} {value[:_MAX_SHOWN_CHARACTERS]}" for name in _SHOWN if isinstance(value := claims.get(name), str)]
    left = _seconds_left(claims)
    return ", ".join([*texts, *([_expiry(left)] if left is not None else [])])


def _expiry(left: float) -> str:
    if left <= 0:
        return f"expired {-left:.0f} s ago"
    return f"expires in {left / 60:.0f} min" if left >= 60 else f"expires in {left:.0f} s"


def _seconds_left(claims: Mapping[str, object]) -> float | None:
    expiry = claims.get("exp")
    # JSON also knows numbers that are no time: NaN, Infinity, and integers that no float holds.
    if not isinstance(expiry, int | float) or not abs(expiry) < _MAX_TIME:
        return None
    return expiry - time.time()


def _status(error: TemporarilyUnavailable) -> str:
    status = _status_of(error)
    return "" if status is None else f"; the identity endpoint answered {status}"


def _status_of(error: TemporarilyUnavailable) -> int | None:
    response = getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None
