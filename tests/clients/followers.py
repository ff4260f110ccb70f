"""Clients that know nothing of this gateway and follow 202, as two products do."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

_LOGIC_APPS_SECONDS = 20
"""The pause of Logic Apps without `Retry-After`."""


async def follow_as_logic_apps(client: httpx.AsyncClient, path: str, body: object) -> tuple[Any, list[int]]:
    """Call as the HTTP action of Power Automate and Logic Apps does with an asynchronous response.

    It takes the absolute `Location` of each 202, waits by `Retry-After`, and ends with the first other answer.
    """
    response = await client.post(path, json=body)
    statuses = [response.status_code]
    location = None
    while response.status_code == 202:
        location = response.headers.get("Location", location)
        assert location is not None
        assert httpx.URL(location).is_absolute_url
        await asyncio.sleep(float(response.headers.get("Retry-After", _LOGIC_APPS_SECONDS)))
        response = await client.get(location)
        statuses.append(response.status_code)
    return response.json(), statuses


async def follow_as_durable_functions(client: httpx.AsyncClient, path: str, body: object) -> tuple[Any, list[int]]:
    """Call as `CallHttpAsync` of Durable Functions does: it requires `Retry-After` with each 202 to poll."""
    response = await client.post(path, json=body)
    statuses = [response.status_code]
    while response.status_code == 202:
        assert response.headers["Content-Type"].startswith("application/json")
        assert response.json()["status"] == "pending"
        await asyncio.sleep(int(response.headers["Retry-After"]))
        response = await client.get(response.headers["Location"])
        statuses.append(response.status_code)
    return response.json(), statuses
