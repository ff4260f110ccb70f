"""Each request queue has one authority, and a proven sender is not authenticated again."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from flow_contracts.message import ReceivedMessage
from flow_worker.access.authorities import Authority, Evidence, ProvenSender
from flow_worker.access.dataverse import DataverseAuthority
from flow_worker.access.principal import Principal
from flow_worker.access.rights import Asserters, Rights
from flow_worker.dead_letters.actions import replay_job
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.registry import Registry
from flow_worker.pipeline import decode
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.job import Job
from flow_worker.settings import FlowSettings, InputCheckSettings, RequestQueue
from tests.unit.contracts.dataverse_samples import ORGANIZATION, USER, posted, update

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
QUEUE = RequestQueue(
    name="dataverse-requests", authority="dataverse", organization=ORGANIZATION, flows={"Update": "sync-contact"}
)
FLOWS = {"sync-contact": FlowSettings(url=SecretStr("https://flow.example/x"), privilege="prvWritecontact")}


class Unreachable:
    """An authority that no test may reach."""

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        raise AssertionError("authenticated a second time, or by another queue's authority")


def admission(**authorities: Authority) -> Admission:
    return Admission(
        authorities={name.replace("_", "-"): authority for name, authority in authorities.items()},
        rights=Rights(Asserters(), None),
        registry=Registry(FLOWS),
        input_checks=InputChecks(FLOWS, InputCheckSettings()),
        reply_queues=["flow-replies"],
        binding_claim="nonce",
    )


def native_job(**members: object) -> Job:
    message = posted(update(**members))
    fields = {name: getattr(message, name) for name in type(message).__dataclass_fields__}
    received = ReceivedMessage(**fields, sequence_number=7, enqueued_at=NOW, delivery_count=1, expires_at=None)
    return decode.reader_of(QUEUE)(received)


def continued(job: Job) -> Job:
    """Return the job that a worker reads from the job's continuation message."""
    return Job.from_message(job.to_message())


async def test_the_authority_of_the_request_queue_proves_the_sender() -> None:
    dataverse = DataverseAuthority(ORGANIZATION)
    job = await admission(flow_requests=Unreachable(), dataverse_requests=dataverse).authenticate(native_job())
    assert job.principal == Principal(ORGANIZATION, USER, "user", frozenset(), "dataverse")
    assert job.dataverse_sender is None


async def test_a_continuation_of_a_proven_sender_is_not_authenticated_again() -> None:
    proven = await admission(dataverse_requests=DataverseAuthority(ORGANIZATION)).authenticate(native_job())
    again = await admission(dataverse_requests=Unreachable()).authenticate(continued(proven))
    assert again.principal == proven.principal


async def test_a_continuation_of_an_unproven_native_message_still_carries_its_evidence() -> None:
    job = continued(native_job())
    assert job.principal is None
    proven = await admission(dataverse_requests=DataverseAuthority(ORGANIZATION)).authenticate(job)
    assert proven.principal is not None
    assert proven.principal.oid == USER


async def test_a_replayed_native_message_still_carries_its_evidence() -> None:
    job = replay_job(native_job(), QUEUE.name, 7, NOW)
    proven = await admission(dataverse_requests=DataverseAuthority(ORGANIZATION)).authenticate(job)
    assert proven.principal is not None
    assert proven.principal.oid == USER


async def test_a_refused_organization_is_one_line_in_the_audit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flow_worker.audit")
    with pytest.raises(Refused):
        await admission(dataverse_requests=DataverseAuthority(ORGANIZATION)).authenticate(
            native_job(OrganizationId=USER)
        )
    [record] = [vars(record) for record in caplog.records if record.name == "flow_worker.audit"]
    assert (record["event"], record["fields"]["code"]) == ("access.refused", "organization_unknown")


async def test_a_request_without_native_sender_is_refused_by_the_dataverse_authority() -> None:
    job = native_job().model_copy(update={"dataverse_sender": None, "claim": SecretStr("a claim proves nothing here")})
    with pytest.raises(Refused) as refused:
        await admission(dataverse_requests=DataverseAuthority(ORGANIZATION)).authenticate(job)
    assert refused.value.code == "organization_unknown"


async def test_a_request_waits_while_no_setting_names_its_queue() -> None:
    """No other queue's authority may judge it."""
    job = native_job().model_copy(update={"request_queue": "removed"})
    with pytest.raises(TemporarilyUnavailable) as unavailable:
        await admission(dataverse_requests=Unreachable()).authenticate(job)
    assert unavailable.value.code == "request_queue_unknown"
    assert "'removed'" in unavailable.value.message
