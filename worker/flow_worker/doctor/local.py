"""Checks this machine: the versions, and the health port."""

from __future__ import annotations

import asyncio
import platform
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import httpx

from flow_worker.doctor.finding import Check, Result, failed, ok, unseen
from flow_worker.settings import HealthSettings, Settings
from flow_worker.settings.placeholders import placeholders

_PACKAGES = ("flow-worker", "flow-contracts", "azure-servicebus", "azure-identity", "aiohttp", "pydantic")
_SERVICE_BUS = "azure-servicebus"
_MIN_SERVICE_BUS = (7, 15)
_ANSWER_SECONDS = 3.0


def checks(settings: Settings, client: httpx.AsyncClient) -> list[Check]:
    """Return the checks of this machine."""
    return [
        *(Check("settings", name, _placeholder) for name in placeholders(settings)),
        Check("versions", "Python and packages", _versions),
        Check("port", f"health {settings.health.port}", partial(_health_port, settings.health, client), 10.0),
    ]


async def _placeholder() -> Result:
    return failed("still has the placeholder of the template", "Replace it with your own value.")


async def _versions() -> Result:
    found = {name: _version(name) for name in _PACKAGES}
    shown = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    detail = f"Python {platform.python_version()} on {platform.system()}, {shown}"
    number = found[_SERVICE_BUS]
    if number is None or _numbers(number) < _MIN_SERVICE_BUS:
        least = ".".join(map(str, _MIN_SERVICE_BUS))
        return failed(detail, f"Install {_SERVICE_BUS} {least} or later: older ones lose settlements.")
    return ok(detail)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


async def _health_port(health: HealthSettings, client: httpx.AsyncClient) -> Result:
    if health.port == 0:
        return unseen("the health endpoint is off")
    url = health.url
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            response = await client.get(f"{url}/health/live")
        if response.status_code == 200 and response.json() == {"live": True}:
            return ok(f"a worker answers at {url}")
        return failed(f"another program answers at {url}", "Stop it, or change health.port.")
    except ValueError:
        return failed(f"another program answers at {url}", "Stop it, or change health.port.")
    except (httpx.HTTPError, TimeoutError):
        return await _is_free(health)


async def _is_free(health: HealthSettings) -> Result:
    try:
        server = await asyncio.start_server(lambda *_: None, health.host, health.port)
    except OSError as error:
        detail = f"cannot listen on {health.host}:{health.port} ({error.strerror or error})"
        return failed(detail, "Stop the program that uses it, or change health.host or health.port.")
    server.close()
    return ok("free")
