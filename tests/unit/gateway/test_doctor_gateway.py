"""What `doctor` and `status` say about the gateway: its queues, and its store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow_worker.cli.status_commands import StatusSettings
from flow_worker.doctor import gateway
from flow_worker.doctor.finding import Outcome, Result
from flow_worker.gateway.store.build import open_raw_store
from flow_worker.settings import Settings

QUEUE = {"name": "flow-requests-gateway", "authority": "gateway", "reply_to": "flow-replies-gateway"}


def settings(**changes: Any) -> Settings:
    minimal = {
        "servicebus": {"namespace": "contoso.servicebus.windows.net"},
        "claims": {"tenants": ["11111111-2222-4333-8444-555555555555"], "audiences": ["api://flow-worker"]},
        "flows": {"quote": {"url": "https://x.environment.api.powerplatform.com/a", "role": "R"}},
        "request_queues": [{"name": "flow-requests"}, QUEUE],
    }
    return Settings.model_validate(minimal | changes)


async def found(of: Settings, number: int) -> Result:
    result = await gateway.checks(of)[number].run()
    assert isinstance(result, Result)
    return result


def test_without_a_queue_of_a_gateway_nothing_is_checked() -> None:
    assert gateway.checks(settings(request_queues=[{"name": "flow-requests"}])) == []


async def test_a_gateway_beside_queues_that_are_not_its_own_is_a_fault() -> None:
    result = await found(settings(request_queues=[{"name": "flow-requests"}], gateway={"port": 8081}), 0)
    assert (result.outcome, "no request queue of this name" in result.detail) == (Outcome.FAILED, True)


@pytest.mark.parametrize(
    ("table", "outcome", "text"),
    [
        ({"reply_queue": "Flow-Replies-Gateway"}, Outcome.OK, "results in"),
        (None, Outcome.OK, "requests in flow-requests-gateway"),
        ({"reply_queue": "other"}, Outcome.FAILED, "the gateway reads other"),
        ({"request_queue": "other"}, Outcome.FAILED, "the gateway sends to other"),
    ],
)
async def test_both_sides_must_name_the_same_queues(table: Any, outcome: Outcome, text: str) -> None:
    result = await found(settings() if table is None else settings(gateway=table), 0)
    assert (result.outcome, text in result.detail) == (outcome, True)


async def test_a_gateway_with_settings_elsewhere_is_not_judged() -> None:
    queue = QUEUE | {"name": "requests-of-another-gateway"}
    assert (await found(settings(request_queues=[queue]), 0)).outcome is Outcome.UNSEEN


async def test_a_store_is_tried_if_it_is_there_and_never_created(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite3"
    of = settings(gateway={"store": {"path": str(path)}})
    assert (await found(of, 1)).outcome is Outcome.UNSEEN
    assert not path.exists()
    await (await open_raw_store(of.gateway)).aclose()
    assert (await found(of, 1)).outcome is Outcome.OK
    path.write_bytes(b"no database at all, but longer than a header of SQLite")
    result = await found(of, 1)
    assert (result.outcome, "gateway.store.path" in result.detail) == (Outcome.FAILED, True)


async def test_a_table_that_is_not_reachable_is_a_fault(free_port: int) -> None:
    text = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey=Zm9v;TableEndpoint=http://127.0.0.1:{free_port}/a;"
    store = {"backend": "table", "table_connection_string": text, "deadline_seconds": 1}
    result = await found(settings(gateway={"store": store}), 1)
    assert (result.outcome, "Zm9v" in result.detail) == (Outcome.FAILED, False)


@pytest.fixture
def free_port() -> int:
    from flow_worker.demo.processes import free_port as found_port

    return found_port()


def test_the_status_shows_the_depth_of_the_gateways_reply_queue() -> None:
    queues = StatusSettings.model_validate({"request_queues": [{"name": "flow-requests"}, QUEUE]}).queues
    expected = ["flow-requests", "flow-requests-gateway", "flow-continuations", "flow-replies", "flow-replies-gateway"]
    assert queues == expected
