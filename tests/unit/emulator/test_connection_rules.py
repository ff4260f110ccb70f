"""Connection rules from the command line: by name, and invalid ones are refused."""

from __future__ import annotations

import pytest

from servicebus_emulator.transport.connection_rules import ConnectionRules


def test_rules_that_are_not_named_keep_the_values_of_the_service() -> None:
    rules = ConnectionRules.parse(["idle_link_seconds=0.5", "max_connections=10"])
    assert rules == ConnectionRules(idle_link_seconds=0.5, max_connections=10)
    assert ConnectionRules.parse([]) == ConnectionRules(5_000, 60.0, 300.0, 600.0, 240.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("idle_links=3", "there is no rule 'idle_links'; there are max_connections, first_link_within_seconds, "),
        ("idle_link_seconds", "idle_link_seconds is ''; it must be a number, as in idle_link_seconds=30"),
        ("max_connections=2.5", "max_connections is '2.5'; it must be a number"),
        ("linkless_seconds=0", "linkless_seconds is 0.0; it must be a number above 0"),
        ("linkless_seconds=nan", "linkless_seconds is nan; it must be a number above 0"),
        ("first_link_within_seconds=inf", "first_link_within_seconds is inf; it must be a number above 0"),
        ("idle_timeout_seconds=5000000", "idle_timeout_seconds is 5000000.0; it must be from 0.001 to 4294967"),
    ],
)
def test_an_invalid_rule_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ConnectionRules.parse([text])
