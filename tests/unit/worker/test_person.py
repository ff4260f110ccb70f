"""The persons that the circuit breaker tells apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flow_worker.access.principal import Principal
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.keys import person_of, sender_of
from tests.unit.worker.test_authorize import job

ADA = "aaaaaaaa-0000-0000-0000-000000000001"
PLUG_IN = "bbbbbbbb-0000-0000-0000-000000000002"
ENTRA = Principal("tenant", ADA, "user", frozenset(), "entra")
OTHERS = [
    Principal("organization", ADA, "user", frozenset(), "dataverse"),
    Principal("tenant", PLUG_IN, "app", frozenset(), "entra", on_behalf_of=ADA),
]


def sent_by(principal: Principal | None) -> Job:
    return job().model_copy(update={"principal": principal})


@pytest.mark.parametrize("other", OTHERS)
def test_one_person_through_two_ways_is_two_senders_and_one_person(other: Principal) -> None:
    first, second = sent_by(ENTRA), sent_by(other)
    assert sender_of(first) != sender_of(second)
    assert person_of(first) == person_of(second) == ADA


@pytest.mark.parametrize(
    "other",
    [
        replace(ENTRA, oid=PLUG_IN),
        Principal("organization", "", "user", frozenset(), "dataverse", system_user=ADA),
        Principal("tenant", ADA, "app", frozenset(), "entra", on_behalf_of=PLUG_IN),
    ],
)
def test_two_users_are_two_persons(other: Principal) -> None:
    assert person_of(sent_by(ENTRA)) != person_of(sent_by(other))


def test_a_sender_without_a_proof_is_no_person() -> None:
    assert person_of(sent_by(None)) == ""
