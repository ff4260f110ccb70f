"""Compares this machine's clock with the broker's, the issuer's, and that of Dataverse or of a flow's host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import urlsplit

import httpx

from flow_worker.doctor.causes import reason, with_proxy
from flow_worker.doctor.finding import Check, Result, failed, ok, unseen
from flow_worker.doctor.hosts import NO_ADMINISTRATION, SET_ADMINISTRATION, broker, has_administration, is_emulator
from flow_worker.settings import HealthSettings, Settings

wall = time.time
"""This machine's clock; a test replaces it."""
_TOLERANCE_SECONDS = 5.0
_REMEDY = "Synchronise this machine's clock (NTP). The worker corrects for the broker's clock only."


def checks(settings: Settings, client: httpx.AsyncClient, local: httpx.AsyncClient) -> list[Check]:
    """Return one check for each source. `local` is a client that uses no proxy, for a worker on this machine."""
    flow = next(iter(settings.flows.values())).url.get_secret_value()
    third = settings.dataverse_urls[0] if settings.dataverse_urls else flow
    sources: Mapping[str, str] = {
        "broker": settings.servicebus.administration_url or f"https://{broker(settings.servicebus).name}",
        "issuer": settings.authority,
        "Dataverse" if settings.dataverse_urls else "flow host": third,
    }
    seconds = settings.http.connect_seconds + _TOLERANCE_SECONDS
    running = Check("clock", "running worker", partial(_check_worker, local, settings.health), seconds)
    hints = {"broker": SET_ADMINISTRATION} if is_emulator(settings.servicebus) else {}
    return [
        *([running] if settings.health.port else []),
        *(
            Check("clock", name, partial(_check, client, _origin(url), hints.get(name, "")), seconds)
            for name, url in sources.items()
            if name != "broker" or has_administration(settings.servicebus)
        ),
        *([] if has_administration(settings.servicebus) else [Check("clock", "broker", _no_administration)]),
    ]


async def _no_administration() -> Result:
    return unseen(NO_ADMINISTRATION, SET_ADMINISTRATION)


def _origin(url: str) -> str:
    """Return the URL without its path: no flow and no function is called."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"


async def _check(client: httpx.AsyncClient, url: str, remedy: str) -> Result:
    began = wall()
    try:
        response = await client.head(url)
    except httpx.HTTPError as error:
        return unseen(f"no answer from {url} ({reason(error)})", with_proxy(remedy, url).strip())
    stated = _stated(response.headers.get("date"))
    if stated is None:
        return unseen(f"{url} states no time")
    # The header has whole seconds, and was written at any moment of the exchange.
    return _judged(max(began - stated - 1, 0.0) + min(wall() - stated, 0.0))


async def _check_worker(client: httpx.AsyncClient, health: HealthSettings) -> list[Result]:
    """Return what a running worker learned from the messages of the broker; nothing if no worker runs here."""
    try:
        async with asyncio.timeout(_TOLERANCE_SECONDS):
            response = await client.get(f"{health.url}/health/ready")
        offset = response.json()["clock"]["offset_seconds"]
    except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError):
        return []
    return [_judged(offset)] if isinstance(offset, int | float) else []


def _judged(ahead: float) -> Result:
    """Judge the seconds by which this machine's clock is ahead."""
    if abs(ahead) > _TOLERANCE_SECONDS:
        side = "ahead" if ahead > 0 else "behind"
        return failed(f"this machine's clock is {abs(ahead):.0f} s {side}", _REMEDY)
    return ok(f"within {_TOLERANCE_SECONDS:g} s")


def _stated(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
