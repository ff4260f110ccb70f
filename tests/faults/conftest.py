"""A system for each test: what breaks there must not touch another."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.system import System, running_system


@pytest.fixture
async def system(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    async with running_system(monkeypatch) as running:
        yield running
