"""Renders the findings of `flow-worker doctor` for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from flow_worker.cli.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console

    from flow_worker.doctor import Finding

_MARKS = {
    "ok": ("\N{CHECK MARK}", "green"),
    "failed": ("\N{BALLOT X}", "red"),
    "unseen": ("\N{EN DASH}", "yellow"),
}


def print_finding(console: Console, finding: Finding) -> None:
    """Print a finding and its remedy."""
    print_line(console, finding.outcome, f"{finding.subject}: {finding.name}: {finding.detail}", finding.remedy)


def print_numbers(console: Console, findings: list[Finding]) -> int:
    """Print the numbers; return the exit status."""
    failed = sum(finding.outcome == "failed" for finding in findings)
    unseen = sum(finding.outcome == "unseen" for finding in findings)
    ok = len(findings) + 1 - failed - unseen
    console.print(f"{ok} well, {failed} failed, {unseen} not seen from here.", highlight=False)
    return 1 if failed else 0


def print_line(console: Console, outcome: str, text: str, remedy: str) -> None:
    """Print one check: a line for programs, a row of a table in a terminal."""
    if not console.is_terminal:
        console.print(_line(outcome, text, remedy), soft_wrap=True)  # one line for programs
        console.file.flush()
        return
    mark, style = _MARKS[outcome]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style), _described(text, remedy))
    console.print(grid)


def _line(outcome: str, text: str, remedy: str) -> Text:
    return Text.assemble(_MARKS[outcome], " ", _described(text, remedy))


def _described(text: str, remedy: str) -> Text:
    line = plain(text)
    return line.append(" \N{RIGHTWARDS ARROW} ").append(plain(remedy, "bold")) if remedy else line
