"""What the security page names is there: settings, codes, events, audit fields, files."""

from __future__ import annotations

import re
from pathlib import Path

from flow_contracts.request import RequestBody
from flow_contracts.result import FlowResult
from flow_worker.settings import Settings
from tests.unit.docs.test_names_documented import EVENT, FILES_AND_LOGGERS, ROOT, first_cells, section, sources
from tests.unit.docs.test_settings_documented import fields

PAGE = ROOT / "docs" / "security.md"
TEXT = PAGE.read_text(encoding="utf-8")
DOTTED = re.compile(r"`([a-z]\w*\.\w+)`")
SNAKE = re.compile(r"`([a-z]+(?:_[a-z]+)+)(?: = \w+)?`")
LINK = re.compile(r"\]\(([^)#]*)(#[^)]*)?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
ROLE = re.compile(r"\*(Azure Service Bus [\w ]+|Storage Table [\w ]+)\*")
AUDITED = re.compile(r'^ {8}"(\w+)": |^ {8}(\w+)=', re.MULTILINE)


def test_every_dotted_name_is_a_setting_or_an_event() -> None:
    settings = {name for name, _ in fields(Settings)}
    events = set(EVENT.findall(sources("worker"))) | FILES_AND_LOGGERS
    named = set(DOTTED.findall(TEXT))
    assert len(named) > 15
    assert named <= settings | events


def test_every_name_in_snake_case_is_a_code_a_setting_or_a_field() -> None:
    codes = first_cells(section("contract.md", "Codes"))
    settings = {name.rsplit(".", 1)[-1] for name, _ in fields(Settings)}
    known = codes | settings | set(RequestBody.model_fields) | set(FlowResult.model_fields) | audited()
    assert set(SNAKE.findall(TEXT)) <= known


def test_the_page_has_every_field_of_the_audit_and_no_other() -> None:
    assert first_cells_of_all_rows(section("security.md", "What is logged").split("\n\n")[1]) == audited()


def test_its_links_lead_somewhere() -> None:
    for path, anchor in LINK.findall(TEXT):
        target = (PAGE.parent / path) if path else PAGE
        assert target.is_file(), path
        if anchor:
            assert anchor[1:] in anchors(target), (path, anchor)


def test_it_names_the_roles_that_operators_are_told_to_assign() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    named, told = (set(ROLE.findall(" ".join(page.split()))) for page in (TEXT, operations))
    assert len(named) == 3
    assert named <= told


def audited() -> set[str]:
    """Names of what a decision's line in the log carries."""
    say = (ROOT / "worker/flow_worker/pipeline/authorize.py").read_text(encoding="utf-8").split("\ndef _say(", 1)[1]
    return {first or second for first, second in AUDITED.findall(say)}


def first_cells_of_all_rows(table: str) -> set[str]:
    return {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ", 1)[0])}


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
