"""Tells the history of the requests that an oracle's finding names, from all the files of the storm."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.faults.storm.oracle import Findings
from tests.faults.storm.world import World

_MAX_REQUESTS = 8
_MAX_LINES = 60
_SHOW_SECONDS = 30.0
_ENTRIES = "entries.txt"


async def save_entries(world: World, findings: Findings) -> None:
    """Write the journal's entries of the first findings' requests to a file, while the journal is still there."""
    with (world.folder / _ENTRIES).open("wb") as file:
        for id_ in _named(findings):
            file.write(f"--- {id_}\n".encode())
            file.flush()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "flow_worker", "journal", "show", id_),
                stdout=file,
                stderr=file,
                cwd=world.folder,
                env=dict(world.workers[0].environment),
            )
            try:
                await asyncio.wait_for(process.wait(), _SHOW_SECONDS)
            except TimeoutError:  # the entry would only explain a finding, and must not replace it
                process.kill()
                await process.wait()
                file.write(f"the journal did not show the entry within {_SHOW_SECONDS:g} s\n".encode())


def histories(findings: Findings, folder: Path) -> str:
    """Return the lines of every log and record that name one of the first findings' requests."""
    return "\n".join(part for id_ in _named(findings) for part in [f"--- {id_}", *_lines(id_, folder)])


def _named(findings: Findings) -> list[str]:
    return list(dict.fromkeys(line.split(" ", 1)[0] for line in findings.lines))[:_MAX_REQUESTS]


def _lines(id_: str, folder: Path) -> list[str]:
    records = _naming(id_, [folder / name for name in ("sent.jsonl", "calls.jsonl", "results.jsonl")])
    logs = sorted(_naming(id_, sorted(folder.glob("worker-*.log"))), key=lambda line: line.split(": ", 1)[1])
    return [*records, *_entry(id_, folder / _ENTRIES), *logs[-_MAX_LINES:]]


def _naming(id_: str, files: Iterable[Path]) -> list[str]:
    found = []
    for file in files:
        if file.exists():
            with file.open(encoding="utf-8", errors="replace") as lines:
                found += [f"{file.name}: {line.rstrip()[:500]}" for line in lines if _names(line, id_)]
    return found


def _entry(id_: str, file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return next((part.splitlines() for part in text.split("--- ") if part.startswith(f"{id_}\n")), [])


def _names(line: str, id_: str) -> bool:
    """Return whether the line names the ID, and not a longer one that begins with it."""
    begin = line.find(id_)
    return begin >= 0 and not line[begin + len(id_) : begin + len(id_) + 1].isdigit()
