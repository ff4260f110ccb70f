"""Checks this machine: the versions, and the health port."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Port:
    """An address on which a program listens, with the settings that hold it."""

    endpoint: HealthSettings
    host_setting: str
    port_setting: str
    program: str


def checks(settings: Settings, client: httpx.AsyncClient) -> list[Check]:
    """Return the checks of this machine."""
    health = Port(settings.health, "health.host", "health.port", "worker")
    return [
        *(Check("settings", name, _placeholder) for name in placeholders(settings)),
        Check("versions", "Python and packages", _versions),
        Check("port", f"health {settings.health.port}", partial(check_health_port, health, client), 10.0),
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


async def check_health_port(port: Port, client: httpx.AsyncClient) -> Result:
    """Check that the health endpoint's program answers at the port, or that the port is free."""
    if port.endpoint.port == 0:
        return unseen("the health endpoint is off")
    url = port.endpoint.url
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            response = await client.get(f"{url}/health/live")
        if response.status_code == 200 and response.json() == {"live": True}:
            return ok(f"a {port.program} answers at {url}")
        return failed(f"another program answers at {url}", f"Stop it, or change {port.port_setting}.")
    except ValueError:
        return failed(f"another program answers at {url}", f"Stop it, or change {port.port_setting}.")
    except (httpx.HTTPError, TimeoutError):
        return await is_free(port)


async def is_free(port: Port) -> Result:
    """Check that a program could listen on the port."""
    host, number = port.endpoint.host, port.endpoint.port
    try:
        server = await asyncio.start_server(lambda *_: None, host, number)
    except OSError as error:
        detail = f"cannot listen on {host}:{number} ({error.strerror or error})"
        remedy = f"Stop the program that uses it, or change {port.host_setting} or {port.port_setting}."
        return failed(detail, remedy)
    server.close()
    return ok("free")
