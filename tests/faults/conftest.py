"""A stage for each test: what breaks there must not touch another."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.stage import Stage, running_stage


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    async with running_stage(monkeypatch) as running:
        yield running
