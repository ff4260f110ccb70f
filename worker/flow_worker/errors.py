"""The errors of a request's journey, split by their remedy rather than by their origin."""

from __future__ import annotations

from datetime import datetime

FLOW_NOT_ALLOWED = "flow_not_allowed"
"""The one result code for a flow that does not exist and for a flow that the sender may not start."""
_NOT_ALLOWED = "This sender may start no flow of this name. Check the name, or ask an administrator."


class Refused(Exception):
    """The sender must not do this, or the request is wrong. The result is `refused`; the worker does not retry.

    `message` is for the sender: it says what to change, and holds neither the claim nor the input. If the refusal
    `is_hidden`, code and message are for administrators only: they would tell the sender which flows exist.
    """

    def __init__(self, code: str, message: str, *, is_hidden: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.is_hidden = is_hidden

    def for_sender(self) -> Refused:
        """Return the refusal that the sender may learn of."""
        if not self.is_hidden:
            return self
        sentence = (
            "No such flow may be started here by this sender; check its name, or ask an administrator for access."
        )
        return Refused(FLOW_NOT_ALLOWED, sentence)


class TemporarilyUnavailable(Exception):
    """A dependency of a decision or a call is unavailable. The request waits; it is neither run nor denied.

    `until`: the time of the next attempt, where it is known.
    """

    def __init__(self, code: str, message: str, *, until: datetime | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.until = until


class CallFailed(Exception):
    """A flow call or a status poll ended without a response.

    `may_have_run`: the request may have reached the flow. Then the worker may repeat the call only for an idempotent
    flow. `counts_against_flow`: the failure counts against the flow's health; false if the worker itself broke off.
    """

    def __init__(self, code: str, message: str, *, may_have_run: bool, counts_against_flow: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.may_have_run = may_have_run
        self.counts_against_flow = counts_against_flow
