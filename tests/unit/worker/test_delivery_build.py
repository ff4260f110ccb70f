"""Without sinks, the worker opens no outbox: no table, no file, no service."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from flow_worker.broker_clock import BrokerClock
from flow_worker.delivery import build
from flow_worker.delivery.build import open_deliveries
from flow_worker.settings import JournalSettings, Settings
from flow_worker.telemetry.health import Health
from flow_worker.telemetry.opening import open_telemetry
from tests.support.outbox import RecordingSink

pytestmark = pytest.mark.asyncio


class Closing(RecordingSink):
    """A sink that notes its end."""

    is_closed = False

    async def close(self) -> None:
        self.is_closed = True


def settings_with(tmp_path: Path) -> Settings:
    flow = {
        "url": "https://0a.1b.environment.api.powerplatform.com/powerautomate/automations/direct/workflows/a/triggers/m",
        "role": "Quotes.Create",
    }
    document: dict[str, Any] = {
        "servicebus": {"namespace": "contoso.servicebus.windows.net"},
        "claims": {
            "tenants": ["11111111-2222-3333-4444-555555555555"],
            "audiences": ["66666666-7777-8888-9999-000000000000"],
        },
        "flows": {"create-quote": flow},
        "journal": {"path": str(tmp_path / "journal.sqlite3")},
    }
    return Settings.model_validate(document)


async def test_without_sinks_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(build, "outbox_store", fail)
    settings, health, clock, unused = settings_with(tmp_path), Health(), BrokerClock(), cast(Any, None)
    async with (
        open_telemetry() as telemetry,
        open_deliveries(
            settings, (), unused, unused, time=clock, health=health, metrics=telemetry.metrics
        ) as deliveries,
    ):
        assert (deliveries.opener, list(deliveries.services)) == (None, [])
        assert await deliveries.purge() == 0
        assert "deliveries" not in health.report()


async def test_the_sinks_are_closed_with_the_outbox(tmp_path: Path) -> None:
    settings, health, clock, sink = settings_with(tmp_path), Health(), BrokerClock(), Closing()
    store = await build_store(settings.journal)
    async with (
        open_telemetry() as telemetry,
        open_deliveries(
            settings, [sink], store, cast(Any, Mock()), time=clock, health=health, metrics=telemetry.metrics
        ) as deliveries,
    ):
        assert deliveries.opener is not None
        assert [service.name for service in deliveries.services] == ["deliveries"]
        assert list(health.sinks) == ["row"]
    assert sink.is_closed
    await store.close()


async def build_store(journal: JournalSettings) -> Any:
    from flow_worker.journal.build import open_store

    return await open_store(journal, None)
