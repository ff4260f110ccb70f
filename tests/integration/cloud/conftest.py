"""Fixtures: a web server for each test, and an HTTP client."""

from collections.abc import AsyncIterator

import httpx
import pytest

from servicebus_emulator import config
from servicebus_emulator.cloud.entra.definitions import FLOW_AUDIENCE
from servicebus_emulator.cloud.web import Web, running_web
from servicebus_emulator.transport.web_callers import WebCallers


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with running_web(config.load().http, callers=WebCallers.parse(["emulator.test"], [])) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60) as opened:
        yield opened


@pytest.fixture
def bearer(web: Web) -> dict[str, str]:
    """The managed identity's token for the Flow service, as a header."""
    return {"Authorization": f"Bearer {web.tokens.for_managed_identity(FLOW_AUDIENCE, 3600)}"}
