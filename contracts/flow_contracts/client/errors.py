"""The errors of the client that are not Service Bus's own."""

from __future__ import annotations

from flow_contracts.servicebus import ServiceBusFailure


class GatewayFailure(Exception):
    """The HTTP gateway did not do what the client asked for. The message holds no token and no input."""


class GatewayUnavailable(GatewayFailure):
    """The gateway did not answer, or it answered that the same call may succeed later."""

    def __init__(
        self, message: str, *, code: str = "unreachable", status: int | None = None, retry_after: float | None = None
    ) -> None:
        """`status`: that of the answer; None without an answer. `retry_after`: the seconds that the gateway named."""
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after = retry_after


class GatewayRefused(GatewayFailure):
    """The gateway refused the call, and repeating it cannot help. `code` is one of docs/reference/result-codes.md."""

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class ResultTimeout(TimeoutError):
    """No result came in time. It may still come: wait or poll again under the same correlation ID."""

    def __init__(
        self,
        correlation_id: str,
        seconds: float,
        failure: ServiceBusFailure | GatewayFailure | None = None,
        *,
        rejected: int = 0,
        skew: str | None = None,
    ) -> None:
        """`rejected`: the number of messages that the client ignored meanwhile because they have no valid MAC.

        `skew`: the sentence about a clock that differs from Service Bus's.
        """
        because = ""
        if failure is not None:
            peer = "the gateway" if isinstance(failure, GatewayFailure) else "Service Bus"
            because = f"; {peer} could not be reached: {failure}"
        if rejected:
            because += (
                f"; {rejected} messages without a valid MAC were ignored: somebody forges results, the request has "
                "another reply key (give it as reply_key), or a worker of a version without reply keys still runs"
            )
        if skew is not None:
            because += f"; {skew}"
        super().__init__(f"no result for correlation ID '{correlation_id}' within {seconds:g} s{because}")
        self.correlation_id = correlation_id
        self.seconds = seconds
        self.failure = failure


class NotOutstanding(LookupError):
    """This client expects no result, or no longer expects a result, under this correlation ID."""
