"""Decides about continuation messages whose seal proves nothing: the journal proves them, or they are dead-lettered.

Without a proof nobody is answered. The address in such a message may be that of another sender's request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from flow_contracts.guid import NotGuid, parse_guid
from flow_contracts.message import ReceivedMessage
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Entry, Journal, NextStep
from flow_worker.pipeline.job import Job, UnprovenContinuation
from flow_worker.pipeline.outcome import Continue, DeadLetter, Outcome, PassOn
from flow_worker.pipeline.passing_on import pass_on, unproven_pauses, waited
from flow_worker.pipeline.seal import SealState, digest_of, own_properties
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_REMEDIES = {
    SealState.MISSING: "has no seal. Only the workers may send to this queue: check the rights to send there. If a "
    "worker of an earlier version sent it, see continuations.unsealed",
    SealState.UNKNOWN_KEY: "is sealed with a key that no worker has. Check the rights to send to this queue, and that "
    "all workers have the same continuations.seal_key or name the earlier one in continuations.previous_seal_key",
    SealState.OUTDATED: "is older than journal.retention_seconds, so the journal may have forgotten its request",
    SealState.BROKEN: "has not the content that a worker sealed for this queue. Somebody forged, altered or moved it: "
    "check the rights to send to this queue",
}


class UnprovenContinuations:
    """Looks for the proof of a continuation in the journal."""

    def __init__(self, journal: Journal, *, wait_seconds: float, now: Callable[[], datetime]) -> None:
        """`wait_seconds`: the time for which the message is left to other workers that may have a proof."""
        self._journal = journal
        self._wait = timedelta(seconds=wait_seconds)
        self._pauses = unproven_pauses(self._wait)
        self._now = now

    async def examine(self, message: ReceivedMessage, unproven: UnprovenContinuation) -> Job | Outcome:
        """Return the job if the journal proves it, else the outcome of the message that a lane received."""
        try:
            if (job := await self._proven(message, unproven)) is not None:
                return job
        except TemporarilyUnavailable as outage:
            return self._pass_on(message, f"its seal is {unproven.seal}, and {outage.message}")
        if _is_provable_elsewhere(unproven) and waited(message) < self._wait:
            return self._pass_on(message, f"its seal is {unproven.seal}, and the journal does not prove it")
        return dead_letter_unproven(message, unproven.seal)

    def unsealed(self, message: ReceivedMessage, job: Job, outcome: Outcome) -> Outcome:
        """Return the outcome of a job that the journal proved, without a new seal for the same step.

        The journal may not know every field of the message, and the seal would prove them all from then on.
        """
        if isinstance(outcome, Continue) and outcome.continuation.number == job.number:
            return pass_on(message, outcome.continuation.cause or "", self._now(), outcome.due)
        return outcome

    def _pass_on(self, message: ReceivedMessage, cause: str) -> PassOn:
        return pass_on(message, cause, self._now(), pauses=self._pauses)

    async def examine_dead_letter(self, message: ReceivedMessage, unproven: UnprovenContinuation) -> Job | DeadLetter:
        """Return the job of a dead letter if the journal proves it, else the outcome without an answer.

        Raises `TemporarilyUnavailable` if the journal is unavailable.
        """
        return await self._proven(message, unproven) or dead_letter_unproven(message, unproven.seal)

    async def _proven(self, message: ReceivedMessage, unproven: UnprovenContinuation) -> Job | None:
        entry = await self._journal.find(unproven.job.message_id)
        return unproven.job if entry is not None and _proves(entry, unproven.job, message) else None


def dead_letter_unproven(message: ReceivedMessage, seal: SealState) -> DeadLetter:
    """Return the outcome of a message that nothing proves: a person inspects it, and nobody is answered."""
    sentence = f"A continuation message is not proven; its seal is {seal}. The worker does nothing that it says."
    log(_log, logging.WARNING, "continuation.unproven", sentence, message_id=message.message_id, seal=seal.value)
    return DeadLetter("continuation_unproven", f"The message {_REMEDIES[seal]}.")


def _is_provable_elsewhere(unproven: UnprovenContinuation) -> bool:
    match unproven.seal:
        case SealState.UNKNOWN_KEY:
            return True
        case SealState.MISSING:
            # Workers of earlier versions postpone a step, or replay a request, without the journal. They trust this.
            return unproven.job.waits > 0 or unproven.job.replayed is not None
        case _:
            return False


def _proves(entry: Entry, job: Job, message: ReceivedMessage) -> bool:
    """Return whether the journal expects exactly this continuation of its request."""
    if job.principal is None or entry.fingerprint != job.fingerprint or entry.origin != job.origin:
        return False
    step = entry.step
    if step is not None and step.digest is not None:
        return step.number == job.number and step.digest == digest_of(message)
    # From here on the entry is one of an earlier version, whose messages have no properties of this kind.
    if own_properties(message) or not _is_consistent(job):
        return False
    if entry.result is not None:
        return True  # the journal's own result goes to the address that the fingerprint covers, and nothing is called
    if step is None:
        return job.number == 0 and job.kind == "call" and job.status_url is None and job.run is None
    return _is_step(job, step)


def _is_consistent(job: Job) -> bool:
    """Return whether the fields that the fingerprint does not cover agree with those that the journal knows."""
    if (job.kind == "call" and not job.has_its_input) or not _acts_for_named_user(job):
        return False
    if job.origin.startswith("replay:"):
        return True
    queue, time = f"{job.request_queue}:", f":{job.accepted.isoformat()}"
    return job.origin.removeprefix(queue).removesuffix(time).isdecimal() and job.origin.startswith(queue)


def _acts_for_named_user(job: Job) -> bool:
    """Return whether the principal acts for the user that the request names; the fingerprint covers only the latter."""
    named, acting = job.on_behalf_of, job.principal.on_behalf_of if job.principal is not None else None
    if named is None or acting is None:
        return named is acting
    try:
        return parse_guid(named) == acting
    except NotGuid:
        return False


def _is_step(job: Job, step: NextStep) -> bool:
    stored, found = step, replace(job.to_step(step.due), digest=None)
    if job.waits:  # a postponement has its own reason, which the journal does not record
        stored, found = (replace(each, code="", cause="") for each in (stored, found))
    return stored == found
