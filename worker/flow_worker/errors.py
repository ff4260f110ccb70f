"""What can go wrong on a request's journey, split by what is to be done about it, not by where it came from."""

from __future__ import annotations

from datetime import datetime


class Refused(Exception):
    """The sender may not have this, or asked for it wrongly: answered `refused`, never tried again.

    `message` is read by the sender: it says what to change and holds neither the claim nor the input.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class TemporarilyUnavailable(Exception):
    """What is needed to decide or to call cannot be had just now: the request waits; it is neither run nor denied.

    `until`: when to come back, where that is known.
    """

    def __init__(self, code: str, message: str, *, until: datetime | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.until = until


class CallFailed(Exception):
    """The flow gave no answer.

    `may_have_run` tells whether the request may have reached the flow: if it did, only an idempotent flow may be
    called again. `counts_against_flow` states whether the failure counts as one of the flow's; it does not if the
    worker itself broke off the call.
    """

    def __init__(self, code: str, message: str, *, may_have_run: bool, counts_against_flow: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.may_have_run = may_have_run
        self.counts_against_flow = counts_against_flow
