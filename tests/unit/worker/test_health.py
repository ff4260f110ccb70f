"""The readiness report: every queue needs a connected lane, and a failed connection is named."""

from __future__ import annotations

from flow_worker.telemetry.health import Health
from flow_worker.telemetry.sink_health import SinkHealth


def test_a_worker_without_lanes_is_not_ready() -> None:
    assert Health().report() == {
        "ready": False,
        "draining": False,
        "journal": {"available": True, "last_error": None},
        "clock": {"offset_seconds": 0.0},
        "queues": {},
    }


def test_a_worker_is_ready_once_every_queue_has_a_connected_lane() -> None:
    health = Health()
    first, second, other = health.lane("requests"), health.lane("requests"), health.lane("continuations")
    first.mark_connected()
    assert health.report()["ready"] is False
    other.mark_connected()
    assert health.report()["ready"] is True
    second.mark_disconnected("the link was detached")
    report = health.report()
    assert report["ready"] is True, "the other lane of the queue is connected"
    assert report["queues"] == {
        "requests": {"lanes": 2, "connected": 1, "last_error": "the link was detached"},
        "continuations": {"lanes": 1, "connected": 1, "last_error": None},
    }


def test_a_queue_without_a_connected_lane_makes_the_worker_unready_until_it_reconnects() -> None:
    health = Health()
    lane = health.lane("requests")
    lane.mark_connected()
    lane.mark_disconnected("connection reset")
    assert health.report() == {
        "ready": False,
        "draining": False,
        "journal": {"available": True, "last_error": None},
        "clock": {"offset_seconds": 0.0},
        "queues": {"requests": {"lanes": 1, "connected": 0, "last_error": "connection reset"}},
    }
    lane.mark_connected()
    assert health.report()["queues"] == {"requests": {"lanes": 1, "connected": 1, "last_error": None}}


def test_a_draining_worker_is_not_ready() -> None:
    health = Health()
    health.lane("requests").mark_connected()
    health.draining = True
    assert health.report()["ready"] is False


def test_a_failing_sink_is_shown_and_does_not_make_the_worker_unready() -> None:
    health = Health()
    health.lane("flow-requests").mark_connected()
    sink = health.sinks["row"] = SinkHealth()
    sink.mark_failing("dataverse_unavailable: Dataverse answered 503")
    report = health.report()
    assert report["ready"] is True
    assert report["deliveries"] == {
        "row": {
            "available": False,
            "last_error": "dataverse_unavailable: Dataverse answered 503",
            "in_flight": 0,
            "delivered": 0,
            "given_up": 0,
        }
    }
