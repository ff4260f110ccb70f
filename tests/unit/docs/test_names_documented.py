"""Error codes and event names are for programs: the pages have all of them, and none that are gone."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RAISED = re.compile(r'(?:Refused|TemporarilyUnavailable|CallFailed|InvalidRequest|unread)\(\s*"(\w+)"')
TOLD = re.compile(r'FlowError\(\s*code="(\w+)"')
NAMED = re.compile(r'^[A-Z_]+ = "((?:flow|status)_\w+)"', re.MULTILINE)
GIVEN_UP = re.compile(r'self\._(?:give_up|put_off)\(\w+, "(\w+)"')
EVENT = re.compile(
    r'"((?:access|call|continuations|dead_letter|journal|keys|lane|periodic_task|request|send|servicebus|supervisor|worker)\.\w+)"'
)
FILES_AND_LOGGERS = {"journal.sqlite3", "flow_worker.audit", "worker.log"}
FIRST_CELL = re.compile(r"^\| (`[^|]*`) \|", re.MULTILINE)
NAME = re.compile(r"`([\w.]+)`")


def sources(*where: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for name in where for path in sorted((ROOT / name).rglob("*.py")))


def section(page: str, heading: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(text: str) -> set[str]:
    return {name for cell in FIRST_CELL.findall(text) for name in NAME.findall(cell)}


def test_every_code_a_result_can_carry_is_explained() -> None:
    code = sources("worker", "contracts/flow_contracts/dataverse") + (
        ROOT / "contracts/flow_contracts/request.py"
    ).read_text(encoding="utf-8")
    used = {name for pattern in (RAISED, TOLD, NAMED, GIVEN_UP) for name in pattern.findall(code)}
    used |= set(TOLD.findall((ROOT / "contracts/flow_contracts/result.py").read_text(encoding="utf-8")))
    documented = {name for name in first_cells(section("contract.md", "Codes")) if not name.startswith("http_")}
    assert documented == used


def test_every_event_of_the_log_is_explained() -> None:
    used = set(EVENT.findall(sources("worker"))) - FILES_AND_LOGGERS
    assert first_cells(section("operations.md", "Log")) == used
