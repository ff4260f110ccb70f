"""`flow-worker status`: what it shows of a worker and of the broker, and what it says when one of them is silent."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from flow_contracts.servicebus.depths import QueueDepth
from flow_worker.cli import status_commands, terminal
from flow_worker.cli.main import cli
from flow_worker.cli.status_render import StatusReport, render

FLOW: dict[str, Any] = {
    "limits": {"max_in_flight": 100, "max_calls": 4500, "window_seconds": 300.0, "breaker_failures": 5},
    "calls": {
        "in_flight": 3,
        "waiting": 12,
        "calls_in_window": 210,
        "average_seconds": 0.126,
        "failures_in_a_row": 0,
        "circuit_breaker": "closed",
        "paused_by": None,
        "paused_until": None,
        "cause": None,
    },
}
BROKEN = FLOW | {
    "calls": FLOW["calls"]
    | {
        "in_flight": 0,
        "circuit_breaker": "open",
        "paused_by": "flow_circuit_open",
        "paused_until": "2026-11-30T12:05:00+00:00",
    }
}
STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "started": "2026-11-30T12:00:00+00:00",
    "now": "2026-11-30T12:03:00+00:00",
    "ready": True,
    "draining": False,
    "clock": {"offset_seconds": 0.0},
    "journal": {"available": True, "last_error": None},
    "queues": {
        "flow-requests": {"lanes": 8, "connected": 8, "last_error": None},
        "flow-continuations": {"lanes": 8, "connected": 0, "last_error": "there is no such queue"},
    },
    "flows": {"create-quote": FLOW, "charge-card": BROKEN} | {f"idle-{number}": FLOW for number in range(40)},
    "results": {
        "counts": {"succeeded": 210, "refused": 3},
        "last": [
            {
                "finished": "2026-11-30T12:02:59+00:00",
                "flow": None if number else "create-quote",
                "status": "refused" if number else "succeeded",
                "code": "unknown_flow" if number else None,
                "http_status": 200,
                "attempts": 1,
                "seconds": 0.31,
            }
            for number in range(20)
        ],
    },
}
DEPTHS: dict[str, dict[str, Any]] = {
    "flow-requests": {"active": 12, "scheduled": 0, "dead_lettered": 1, "unknown": None},
    "flow-continuations": {"active": None, "unknown": "there is no such queue"},
}


def printed(worker: dict[str, Any] | None, width: int, *, height: int | None = None, fault: str = "") -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(StatusReport("http://127.0.0.1:8080", worker, fault, DEPTHS), console, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_status_shows_queues_lanes_flows_circuit_breakers_and_results(width: int) -> None:
    lines = printed(STATUS, width)
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert max(map(len, lines)) <= width
    for part in (
        "ready http://127.0.0.1:8080 version 0.1.0 up 3 min",
        "flow-requests 8/8 12 0 1",
        "flow-continuations 0/8 unknown unknown unknown",
        "there is no such queue",
        "create-quote 3/100 12 210/4500 0.13 closed",
        "charge-card 0/100 12 210/4500 0.13 open until 12:05:00",
        "results since the start: succeeded 210, refused 3",
        "12:02:59 create-quote succeeded 1 0.31",
        "12:02:59 (not registered) refused unknown_flow 1 0.31",
    ):
        assert part in text
    assert text.index("charge-card") < text.index("create-quote 3/100"), "a paused flow comes first"


def test_a_long_error_takes_no_room_from_the_columns() -> None:
    error = "Service Bus at 127.0.0.1:5672 is unreachable: the connection was refused; the worker tries again " * 2
    lanes = {"lanes": 8, "connected": 0, "last_error": error}
    queues = {"flow-requests": lanes, "flow-continuations": lanes}
    lines = [line.rstrip() for line in printed(STATUS | {"queues": queues}, 80)]
    assert any(line.split() == ["flow-requests", "0/8", "12", "0", "1"] for line in lines), lines
    assert any(line.split() == ["queue", "lanes", "active", "scheduled", "dead"] for line in lines)
    text = " ".join(" ".join(lines).split())
    assert text.count(f"flow-requests, flow-continuations: {error.strip()}") == 1


@pytest.mark.parametrize("height", [24, 40])
def test_a_watch_fits_the_terminal_and_keeps_the_busiest_flows(height: int) -> None:
    lines = printed(STATUS, 80, height=height)
    assert len(lines) <= height
    text = "\n".join(lines)
    assert "charge-card" in text
    assert "more flows" in text


def test_a_worker_that_does_not_answer_is_named_and_the_depths_stay() -> None:
    lines = printed(None, 80, fault="no worker answers (ConnectError)")
    assert "no worker answers" in lines[0]
    assert any("flow-requests" in line and "12" in line for line in lines)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    return CliRunner(env={"FLOW_WORKER_HEALTH__PORT": "8099"})


@pytest.mark.parametrize(
    ("answer", "exit_status", "fault"),
    [
        (httpx.Response(200, json=STATUS), 0, None),
        (httpx.Response(403, text="no"), 1, "health.status = 'all'"),
        (httpx.Response(404), 1, "health.status is 'off'"),
        (httpx.Response(503, json={"error": "x"}), 1, "is starting"),
        (httpx.Response(500), 1, "HTTP status 500"),
        (httpx.Response(200, text="<html>"), 1, "not the status of a worker"),
        (httpx.ConnectError("refused"), 1, "no worker answers (ConnectError)"),
    ],
)
def test_the_exit_status_says_whether_a_worker_answered(
    runner: CliRunner,
    monkeypatch: pytest.MonkeyPatch,
    answer: httpx.Response | Exception,
    exit_status: int,
    fault: str | None,
) -> None:
    asked = []

    def get(url: str, **_: object) -> httpx.Response:
        asked.append(url)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(httpx, "get", get)
    done = runner.invoke(cli, ["status", "--json"])
    assert done.exit_code == exit_status, done.output
    assert asked == ["http://127.0.0.1:8099/status"]
    document = json.loads(done.stdout)
    assert (fault or "") in (document["fault"] or "")
    assert document["depths"]["flow-requests"]["unknown"] == "the settings name no broker"
    assert (document["worker"] is None) == (exit_status == 1)


def test_a_worker_without_a_health_endpoint_has_no_status(runner: CliRunner) -> None:
    done = runner.invoke(cli, ["status"], env={"FLOW_WORKER_HEALTH__PORT": "0"})
    assert done.exit_code == 2
    assert "health.port" in done.output


async def test_depths_are_unknown_while_the_administration_is_unreachable() -> None:
    from flow_contracts.servicebus import ConnectionString
    from flow_contracts.servicebus.depths import queue_depths

    endpoint = ConnectionString(
        "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true;"
    )
    assert await queue_depths(endpoint, ["q"], 5, "http://127.0.0.1:1") == {
        "q": QueueDepth(unknown="the administration is unreachable")
    }


def test_watch_says_at_once_on_a_terminal_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    console = Console(file=written, width=80, height=24, force_terminal=True, color_system=None)
    monkeypatch.setattr(terminal, "out", lambda: console)
    shown: list[str] = []

    def read(*_: object) -> StatusReport:
        shown.append(written.getvalue())
        raise KeyboardInterrupt

    monkeypatch.setattr(status_commands, "_read", read)
    result = CliRunner().invoke(cli, ["status", "--watch", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 0
    assert "Asking the worker at http://127.0.0.1:1, and Service Bus" in " ".join(shown[0].split())


def test_each_sink_has_a_line() -> None:
    working = {"available": True, "last_error": None, "in_flight": 0, "delivered": 7, "given_up": 0}
    error = "dataverse_throttled: Dataverse throttles the worker"
    failing = working | {"available": False, "last_error": error, "given_up": 2}
    text = " ".join(" ".join(printed(STATUS | {"deliveries": {"row": working, "bell": failing}}, 80)).split())
    assert "delivery row: ready, 7 delivered" in text
    assert "delivery bell: fails, 7 delivered, 2 given up (flow-worker deliveries list --given-up): " + error in text
    assert "delivery" not in " ".join(printed(STATUS, 80))
