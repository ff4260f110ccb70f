"""Builds the journal's keys of a job."""

from __future__ import annotations

from collections.abc import Callable

from flow_worker.journal import JobKey
from flow_worker.pipeline.job import Job

LockHeld = Callable[[], bool]
"""Returns whether the lock on the message still holds; if not, another worker may have the message."""

Sole = Callable[[], bool]
"""Returns whether no other worker has had the message: this is its first delivery, and its lock still holds.

Only then is it certain without the journal that nothing was called. A continuation proves nothing: its predecessor may
have been delivered again, and called, after the continuation was scheduled.
"""


def always_held() -> bool:
    """Return True: the message has no lock that could expire, as a dead letter that the worker only peeks at."""
    return True


def never_sole() -> bool:
    """Return False: another worker may have had the message."""
    return False


def key_of(job: Job) -> JobKey:
    """Return the key of a job whose sender is proven."""
    return JobKey(
        message_id=job.message_id,
        fingerprint=job.fingerprint,
        origin=job.origin,
        number=job.number,
        correlation_id=job.correlation_id,
        flow=job.flow,
    )


def stand_in(origin: str) -> JobKey:
    """Return the key for the end of a message that must not occupy its own message ID: its request may not be allowed.

    The origin is the broker's own identity of the message, which no sender can choose.
    """
    # The prefix is older than the other uses of this key. The journals in use hold it.
    key = f"dead-letter {origin}"
    return JobKey(message_id=key, fingerprint=key, origin=origin, number=0)


def sender_of(job: Job) -> str:
    """Return the text that identifies the job's principal to the limits; empty if the sender is not proven.

    A user whom a plug-in names counts apart from the plug-in's other users.
    """
    principal = job.principal
    if principal is None:
        return ""
    oid = principal.oid or principal.system_user
    # Through a gateway a principal of Entra has no limits of its own beside those that it has already.
    authority = "entra" if principal.authority == "gateway" else principal.authority
    return f"{authority} {principal.tenant} {oid} {principal.on_behalf_of or ''}"


def person_of(job: Job) -> str:
    """Return the text that identifies the person behind the job's principal; empty if the sender is not proven.

    One person may send through several authorities, and through an asserter. The circuit breaker asks for the failures
    of two senders, and one person must not be both. Object IDs are unique across tenants.
    """
    principal = job.principal
    if principal is None:
        return ""
    return principal.on_behalf_of or principal.oid or sender_of(job)
