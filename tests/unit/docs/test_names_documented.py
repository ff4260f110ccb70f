"""The pages list exactly the result codes, log events and command options of the code."""

from __future__ import annotations

import re
import tomllib

from tests.unit.docs.code_names import command_options, control_paths, delivery_codes, log_events, result_codes
from tests.unit.docs.pages import ROOT, first_cells, section, text

_SHOWN_OPTION = re.compile(r"--[a-z][a-z-]*")


def test_every_code_a_result_can_carry_is_documented() -> None:
    rows = first_cells(section("reference/result-codes.md", "Codes"))
    assert {name for name in rows if not name.startswith("http_")} == result_codes()


def test_every_code_of_a_failed_delivery_is_documented() -> None:
    assert delivery_codes() <= first_cells(section("reference/deliveries.md", "Codes"))
    assert len(delivery_codes()) > 1


def test_every_event_of_the_log_is_documented() -> None:
    assert first_cells(section("reference/log-events.md", "Events")) == log_events()


def test_every_named_option_of_the_commands_is_documented() -> None:
    documented = set(_SHOWN_OPTION.findall(text("reference/commands.md")))
    declared = command_options()
    assert len(declared) > 10
    assert declared <= documented


def test_the_architecture_page_lists_every_import_rule_by_its_name() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    listed = text("explanation/architecture.md").split("### Import rules\n", 1)[1].split("\n#", 1)[0]
    assert re.findall(r"^- (.*)$", listed, re.MULTILINE) == [rule["name"] for rule in rules]


def test_every_control_endpoint_of_the_emulator_is_documented() -> None:
    rows = re.findall(r"^\| `(?:GET|POST|PUT) (/emulator/\S+)`", text("reference/emulator.md"), re.MULTILINE)
    assert set(rows) == control_paths()
