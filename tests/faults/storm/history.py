"""Tells the history of the requests that an oracle's finding names, from all the files of the storm."""

from __future__ import annotations

from pathlib import Path

from tests.faults.storm.storm import Report

_MAX_REQUESTS = 8
_MAX_LINES = 40


def histories(report: Report, folder: Path) -> str:
    """Return the lines of every log and record that name one of the first findings' requests."""
    ids = list(dict.fromkeys(line.split(" ", 1)[0] for line in report.findings.lines))[:_MAX_REQUESTS]
    return "\n".join(part for id_ in ids for part in [f"--- {id_}", *_lines(id_, folder)])


def _lines(id_: str, folder: Path) -> list[str]:
    files = [folder / "calls.jsonl", folder / "results.jsonl", *sorted(folder.glob("worker-*.log"))]
    found = []
    for file in files:
        if not file.exists():
            continue
        with file.open(encoding="utf-8", errors="replace") as lines:
            found += [f"{file.name}: {line.rstrip()[:500]}" for line in lines if _names(line, id_)]
    return found[:_MAX_LINES]


def _names(line: str, id_: str) -> bool:
    """Return whether the line names the ID, and not a longer one that begins with it."""
    begin = line.find(id_)
    return begin >= 0 and not line[begin + len(id_) : begin + len(id_) + 1].isdigit()
