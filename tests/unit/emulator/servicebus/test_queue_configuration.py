"""Queues in the official emulator's config.json, and the errors for invalid ones."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from servicebus_emulator.servicebus.configuration.fields import ConfigError
from servicebus_emulator.servicebus.configuration.queues import parse_queues
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings


def document(*queues: object, **namespace: object) -> Mapping[str, object]:
    return {"UserConfig": {"Namespaces": [{"Name": "sbemulatorns", "Queues": list(queues)} | namespace]}}


def test_a_queue_without_properties_has_the_services_defaults() -> None:
    assert parse_queues(document({"Name": "q"})) == (QueueSettings("q"),)


def test_every_property_is_parsed() -> None:
    properties = {
        "LockDuration": "PT1M30S",
        "MaxDeliveryCount": 3,
        "RequiresSession": True,
        "RequiresDuplicateDetection": True,
        "DuplicateDetectionHistoryTimeWindow": "PT20S",
        "DefaultMessageTimeToLive": "P1DT2H",
        "DeadLetteringOnMessageExpiration": True,
        "ForwardTo": "",
    }
    (queue,) = parse_queues(document({"Name": "q", "Properties": properties}))
    assert queue == QueueSettings("q", 90, 3, True, True, 20, 93_600, True)


@pytest.mark.parametrize(
    ("queue", "reason"),
    [
        ({"Name": ""}, "Queues[0].Name: must be a text"),
        ({"Nmae": "q"}, "Queues[0].Nmae: no such property"),
        ({"Name": "q", "Properties": {"LockDuration": "5 min"}}, "LockDuration: must be an ISO 8601 duration"),
        ({"Name": "q", "Properties": {"LockDuration": "PT6M"}}, "LockDuration: must be 300 seconds at most"),
        ({"Name": "q", "Properties": {"LockDuration": "PT0S"}}, "LockDuration: must be longer"),
        ({"Name": "q", "Properties": {"MaxDeliveryCount": 0}}, "MaxDeliveryCount: must be a whole number"),
        ({"Name": "q", "Properties": {"RequiresSession": "yes"}}, "RequiresSession: must be true or false"),
        ({"Name": "q", "Properties": {"ForwardTo": "other"}}, "forwards to 'other', which is no queue"),
        ("q", "Queues[0]: must be a JSON object"),
        ({"Name": "n" * 261}, "Name: must be a text of 1 to 260 characters"),
        ({"Name": "q", "Properties": []}, "Queues[0].Properties: must be a JSON object"),
        ({"Name": "q", "Properties": {"Colour": "red"}}, "Properties.Colour: no such property; known: AutoDelete"),
        ({"Name": "q", "Properties": {"MaxDeliveryCount": True}}, "MaxDeliveryCount: must be a whole number"),
        ({"Name": "q", "Properties": {"LockDuration": 60}}, "LockDuration: must be an ISO 8601 duration"),
        ({"Name": "q", "Properties": {"LockDuration": "PT\u0665M"}}, "LockDuration: must be an ISO 8601 duration"),
        ({"Name": "q", "Properties": {"LockDuration": "P"}}, "LockDuration: must be an ISO 8601 duration"),
        ({"Name": "q", "Properties": {"LockDuration": "P1M"}}, "LockDuration: must be an ISO 8601 duration"),
        ({"Name": "q", "Properties": {"DuplicateDetectionHistoryTimeWindow": "P8D"}}, "must be 604800 seconds at most"),
    ],
)
def test_an_invalid_queue_is_rejected_with_its_path_and_the_remedy(queue: object, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_queues(document(queue))
    assert reason in str(error.value)


def test_topics_and_duplicate_names_are_rejected() -> None:
    with pytest.raises(ConfigError, match="topics are not supported"):
        parse_queues(document(Topics=[{"Name": "t"}]))
    with pytest.raises(ConfigError, match="two queues named 'q'"):
        parse_queues(document({"Name": "q"}, {"Name": "Q"}))


def test_the_longest_time_to_live_means_no_limit() -> None:
    properties = {"DefaultMessageTimeToLive": "P10675199DT2H48M5.4775807S"}
    assert parse_queues(document({"Name": "q", "Properties": properties})) == (QueueSettings("q"),)


@pytest.mark.parametrize(
    ("whole", "reason"),
    [
        ({}, "UserConfig: must be a JSON object"),
        ({"UserConfig": {}}, "UserConfig.Namespaces: must be a JSON array"),
        ({"UserConfig": {"Namespaces": [{}, {}]}}, r"UserConfig.Namespaces: there are 2; put all queues into one"),
        ({"UserConfig": {"Namespaces": [7]}}, r"UserConfig.Namespaces\[0\]: must be a JSON object"),
        ({"UserConfig": {"Namespaces": [{"Queues": {}}]}}, r"UserConfig.Namespaces\[0\].Queues: must be a JSON array"),
    ],
)
def test_a_document_of_another_shape_is_rejected_with_the_path(whole: Mapping[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^{reason}"):
        parse_queues(whole)
