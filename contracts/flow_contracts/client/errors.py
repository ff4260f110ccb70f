"""The errors of the client that are not Service Bus's own."""

from __future__ import annotations

from flow_contracts.servicebus import ServiceBusFailure


class ResultTimeout(TimeoutError):
    """No result came in time. It may still come: wait or poll again under the same correlation ID."""

    def __init__(
        self,
        correlation_id: str,
        seconds: float,
        failure: ServiceBusFailure | None = None,
        *,
        rejected: int = 0,
        skew: str | None = None,
    ) -> None:
        """`rejected`: the number of messages that the client ignored meanwhile because they have no valid MAC.

        `skew`: the sentence about a clock that differs from Service Bus's.
        """
        because = f"; Service Bus could not be reached: {failure}" if failure else ""
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


class NotOutstanding(LookupError):
    """This client expects no result, or no longer expects a result, under this correlation ID."""
