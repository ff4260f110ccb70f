"""Shared access policies in the configuration."""

from __future__ import annotations

import pytest

from servicebus_emulator.servicebus.access import Right
from servicebus_emulator.servicebus.access.policies import ALL_RIGHTS, DEVELOPMENT_POLICY, Policy
from servicebus_emulator.servicebus.configuration.fields import ConfigError
from servicebus_emulator.servicebus.configuration.policies import parse_policies
from tests.unit.emulator.servicebus.credentials import (
    SENDERS,
)


def rule(**changes: object) -> dict[str, object]:
    return {"KeyName": "p", "Rights": ["Send"], "PrimaryKey": "k"} | changes


def document(namespace: object = (), queue: object = ()) -> dict[str, object]:
    rules = [list(one) if isinstance(one, tuple) else one for one in (namespace, queue)]
    entry = {"Name": "n", "AuthorizationRules": rules[0], "Queues": [{"Name": "Q", "AuthorizationRules": rules[1]}]}
    return {"UserConfig": {"Namespaces": [entry]}}


def test_policies_of_namespace_and_queues_are_parsed_and_the_development_policy_is_added() -> None:
    whole = rule(Rights=["Manage"], SecondaryKey="s", ClaimType="SharedAccessKey", ClaimValue="None")
    assert parse_policies(document([whole], [rule(Rights=["Listen", "Send"])])) == (
        DEVELOPMENT_POLICY,
        Policy("p", ALL_RIGHTS, ("k", "s")),
        Policy("p", Right.SEND | Right.LISTEN, ("k",), "q"),
    )


def test_a_policy_with_the_development_policys_name_replaces_it() -> None:
    (only,) = parse_policies(document([rule(KeyName="rootmanagesharedaccesskey")]))
    assert only.keys == ("k",)


@pytest.mark.parametrize(
    ("rules", "where", "what"),
    [
        ({}, "", "must be a JSON array"),
        ([7], "[0]", "must be a JSON object"),
        ([rule(KeyNmae="x")], "[0].KeyNmae", "no such property; known: KeyName, "),
        ([rule(KeyName="")], "[0].KeyName", "must be a text of 1 to 256 characters"),
        ([rule(PrimaryKey=None)], "[0].PrimaryKey", "must be a text of 1 to 256 characters"),
        ([rule(SecondaryKey=7)], "[0].SecondaryKey", "must be a text of 1 to 256 characters"),
        ([rule(Rights=[])], "[0].Rights", "must be a JSON array of one or more of Send, Listen, Manage"),
        ([rule(Rights=["Send", "listen"])], "[0].Rights[1]", "must be one of Send, Listen, Manage"),
        ([rule(), rule(KeyName="P")], "[1].KeyName", "there are two policies named 'p'; names ignore case"),
        ([rule(KeyName=f"p{number}") for number in range(13)], "", "there are 13 policies; 12 are allowed"),
    ],
)
def test_an_invalid_policy_is_rejected_with_its_path(rules: object, where: str, what: str) -> None:
    for path, given in (
        ("UserConfig.Namespaces[0]", document(namespace=rules)),
        ("UserConfig.Namespaces[0].Queues[0]", document(queue=rules)),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_policies(given)
        assert str(caught.value).startswith(f"{path}.AuthorizationRules{where}: {what}")


def test_the_repr_of_a_policy_hides_its_keys() -> None:
    assert "first-key" not in repr(SENDERS)
