"""The list of the journal at the terminal: no ID is cut; and the IDs that a person gives in part."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from rich.console import Console

from flow_contracts.result import FlowResult, FlowRun, Status
from flow_worker.cli import terminal
from flow_worker.cli.journal_render import as_json, line_as_json, print_entry, print_list
from flow_worker.cli.short_ids import is_meant, short_ids
from flow_worker.journal.entry import Entry
from flow_worker.journal.search import FoundEntries, ids_of
from tests.support.pipeline import NOW

GUID = "0b7e4c1a-5e44-454d-9b59-52f9bb9e8530"
OTHER = "95d3e170-42ec-464b-a301-3c41def01d38"


def entry(message_id: str, correlation_id: str, flow: str) -> Entry:
    expires = NOW + timedelta(days=1)
    return Entry(message_id, "f", "q", "waiting", 1, expires, correlation_id=correlation_id, flow=flow)


@pytest.mark.parametrize("width", [20, 40, 71, 72, 80, 109, 110, 120, 4000])
@pytest.mark.parametrize("flow", ["f", "create-quote-" * 9])
@pytest.mark.parametrize("message_id", [GUID, "order-" + "1" * 122])
def test_no_id_is_cut_at_any_width(width: int, flow: str, message_id: str) -> None:
    console = Console(file=io.StringIO(), width=width)
    print_list(console, FoundEntries([entry(message_id, OTHER, flow)], 1))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    if width >= 72:
        assert max(map(len, lines)) <= width
    assert any(line.rstrip().endswith(OTHER) for line in lines), "on one line, to be copied"
    assert sum(line.count("1") for line in lines) >= message_id.count("1")
    if message_id == GUID:
        assert any(GUID in line for line in lines)


def test_a_pipe_is_wide() -> None:
    assert terminal.wide_out().width >= 1000


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (GUID.upper(), True),
        (f"{{{GUID.upper()}}}", True),
        (GUID.replace("-", ""), True),
        (GUID[:8], True),
        (GUID[:8].upper(), True),
        (GUID[:20], True),
        (*short_ids([GUID]).values(), True),
        (f"{GUID[:8]}...", True),
        (f"\u2026{GUID[-8:]}", True),
        (GUID[:7], False),
        (f"\u2026{GUID[-7:]}", False),
        (f"{GUID[:7]}\u2026", False),
        (GUID[-8:], False),
        (OTHER, False),
        ("", False),
    ],
)
def test_a_part_of_an_id_or_another_spelling_means_it(given: str, meant: bool) -> None:
    assert is_meant(GUID, given) == meant


def test_show_and_list_print_the_settling_result() -> None:
    unknown = FlowResult(status=Status.UNKNOWN, correlation_id="c", request_message_id="m", attempts=1)
    changes = {
        "status": Status.SUCCEEDED,
        "settled_by": "flow_run",
        "run": FlowRun(run_id="08585"),
        "run_url": "https://make.powerautomate.com/environments/e/flows/f/runs/08585",
    }
    settled = Entry(
        "m",
        "f",
        "q",
        "concluded",
        1,
        NOW,
        result=unknown,
        settled=unknown.model_copy(update=changes),
        flow="create-quote",
    )
    console = Console(file=io.StringIO(), width=200)
    print_list(console, FoundEntries([settled], 1))
    print_entry(console, settled, with_output=False)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "create-quote: succeeded, settled by flow_run" in printed
    assert "unknown" in printed
    assert str(changes["run_url"]) in printed
    line = line_as_json(settled)
    assert (line["status"], line["settled_by"], line["run_id"]) == ("succeeded", "flow_run", "08585")
    document = as_json(settled, with_output=True)
    assert isinstance(document["settled"], dict)
    assert "output" not in document["settled"]
    assert "08585" in ids_of(settled)
