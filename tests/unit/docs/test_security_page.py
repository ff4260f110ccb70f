"""The names on the security page exist: settings, codes, events, audit fields, roles."""

from __future__ import annotations

import re

from flow_contracts.request import FlowRequest
from flow_contracts.result import FlowResult
from tests.unit.docs.code_names import AUDIT_LOGGER, audit_fields, log_events, setting_names
from tests.unit.docs.pages import first_cells, section, text

PAGE = "explanation/security.md"
_DOTTED = re.compile(r"`([a-z]\w*\.\w+)`")
_SNAKE = re.compile(r"`([a-z]+(?:_[a-z]+)+)(?: = \w+)?`")
_ROLE = re.compile(r"\*(Azure Service Bus [\w ]+|Storage Table [\w ]+)\*")


def test_every_dotted_name_is_a_setting_or_an_event() -> None:
    named = set(_DOTTED.findall(text(PAGE)))
    assert len(named) > 15
    assert named <= setting_names() | log_events() | {AUDIT_LOGGER}


def test_every_name_in_snake_case_is_a_code_a_reason_a_setting_or_a_field() -> None:
    codes = first_cells(section("reference/result-codes.md", "Codes"))
    settings = {name.rsplit(".", 1)[-1] for name in setting_names()}
    reasons = first_cells(section("how-to/handle-dead-letters.md", "Dead-letter reasons"))
    known = codes | reasons | settings | set(FlowRequest.model_fields) | set(FlowResult.model_fields) | audit_fields()
    assert set(_SNAKE.findall(text(PAGE))) <= known


def test_the_page_lists_exactly_the_fields_of_the_audit_log() -> None:
    table = section(PAGE, "The audit log").split("\n\n")[1]
    rows = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ", 1)[0])}
    assert rows == audit_fields()


def test_the_how_to_guides_assign_every_role_of_the_page() -> None:
    guides = ("how-to/configure-queues.md", "how-to/deploy.md", "how-to/handle-dead-letters.md")
    named = _roles(text(PAGE))
    assert len(named) == 3
    assert named <= {role for guide in guides for role in _roles(text(guide))}


def _roles(markdown: str) -> set[str]:
    return set(_ROLE.findall(" ".join(markdown.split())))
