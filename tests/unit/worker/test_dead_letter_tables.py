"""The table of dead letters at the terminal: the request's own ID, short, and the whole of the useful text."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from flow_worker.cli.counter import Counter
from flow_worker.cli.dead_letter_render import print_list
from flow_worker.cli.short_ids import short_ids
from flow_worker.dead_letters.view import DeadLetterView

NOW = datetime(2026, 11, 30, 12, 0, 1, tzinfo=UTC)
UUIDS = ["0b7e4c1a-5e44-454d-9b59-52f9bb9e8530", "95d3e170-42ec-464b-a301-3c41def01d38"]
DESCRIPTION = (
    "The worker gave up after 8 calls. The flow's run gave no answer: an action before its Response failed, or it took "
    "longer than the 120 s that a call may last. Look at the run 08584599291259553162460181544CU48 in its history, "
    "correct the flow, and replay this request. The end."
)


def view(
    number: int, own: str | None, correlation: str | None = None, description: str = DESCRIPTION
) -> DeadLetterView:
    return DeadLetterView(
        "flow-continuations",
        number,
        NOW,
        f"continuation-{'ab' * 32}",
        correlation or own,
        "create-quote" if own else None,
        "NoResponse",
        description,
        100,
        None,
        own,
    )


def printed(views: list[DeadLetterView], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_list(console, views, None)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_names_the_request_by_its_own_short_id_and_keeps_the_whole_description(width: int) -> None:
    lines = printed([view(4711 + number, own) for number, own in enumerate(UUIDS)], width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "continuation-" not in text
    for own in UUIDS:
        assert f"{own[:8]}…" in text
        assert own not in text
    [header] = [line for line in lines if "flow: reason" in line]
    column = header.index("flow: reason")
    described = " ".join(line[column:].strip() for line in lines)
    assert all(word in described for word in DESCRIPTION.split()), "no word is cut"
    assert "The end." in text
    assert len(lines) < 24, "two dead letters fit a terminal"


def test_a_request_with_ids_that_its_sender_chose_keeps_both_and_one_without_says_so() -> None:
    text = "\n".join(printed([view(1, "order-4711", "quote-4711"), view(2, None, None, "")], 80))
    assert "order-4711" in text
    assert "quote-4711" in text
    assert "(unreadable)" in text
    assert "ab" * 20 not in text


@pytest.mark.parametrize(
    ("ids", "short"),
    [
        ([], []),
        (["order-4711"], ["order-4711"]),
        (UUIDS, ["0b7e4c1a…", "95d3e170…"]),
        (["the-same-beginning-0001", "the-same-beginning-0002"], ["ing-0001", "ing-0002"]),
        (["aaaaaaaaaaaaaaaaaaaab", "aaaaaaaaaaaaaaaaaaaac"], ["aaaaaaab", "aaaaaaac"]),
        (
            ["x" * 25 + "1" + "y" * 25, "x" * 25 + "2" + "y" * 25],
            ["x" * 25 + "1" + "y" * 25, "x" * 25 + "2" + "y" * 25],
        ),
    ],
)
def test_ids_are_shortened_to_the_part_that_tells_them_apart(ids: list[str], short: list[str]) -> None:
    found = short_ids(ids)
    assert [found[one] for one in ids] == [one if one in ids or "…" in one else f"…{one}" for one in short]
    assert len(set(found.values())) == len(ids)


def test_progress_in_a_pipe_is_a_line_every_five_seconds_and_none_for_a_short_command() -> None:
    now = 0.0
    written = io.StringIO()
    with Counter(Console(file=written, width=80), "replaying", 100, monotonic=lambda: now) as counter:
        for _ in range(10):
            counter.advance()
        assert written.getvalue() == ""
        for _ in range(90):
            now += 0.2
            counter.advance()
    assert written.getvalue().splitlines()[0] == "replaying: 35 of 100"
    assert len(written.getvalue().splitlines()) == 3


def test_progress_at_a_terminal_is_a_bar_that_disappears() -> None:
    written = io.StringIO()
    with Counter(Console(file=written, width=80, force_terminal=True), "replaying", 2) as counter:
        counter.advance()
    assert "replaying" in written.getvalue()
    assert "0/2" in written.getvalue() or "1/2" in written.getvalue()
