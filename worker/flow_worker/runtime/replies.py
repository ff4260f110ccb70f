"""Publishes results to the reply queues, each under a deterministic message ID."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import timedelta

from flow_contracts.gateway_replies import UNPROVEN_PROPERTY
from flow_contracts.message import Message
from flow_contracts.result import FlowResult
from flow_contracts.servicebus import BeforeSend, MessageTooLarge, ServiceBusMisconfigured, unconditionally
from flow_worker.pipeline.outcome import Reply
from flow_worker.runtime.outbox import Outbox

_MAX_MESSAGE_CHARACTERS = 200


class Replies:
    """Publishes results. Publishing a result twice has no further effect."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        time_to_live: timedelta,
        publish_seconds: float,
        gateway_queues: Collection[str] = (),
    ) -> None:
        """`gateway_queues`: the reply queues of gateways, which learn there if the worker knows a request's sender."""
        self._outbox = outbox
        self._time_to_live = time_to_live
        self._publish_seconds = publish_seconds
        self._gateway_queues = frozenset(gateway_queues)

    async def publish(self, reply: Reply, before: BeforeSend = unconditionally) -> None:
        """Return once the reply queue has accepted the result; see `Outbox.deliver` for `before`.

        This publishes a result without its output, and then without its details, if the queue does not take a message
        so large. Raises `ServiceBusUnavailable` after `publish_seconds`, and `ServiceBusMisconfigured` if the queue
        takes none of them.
        """
        try:
            await self._deliver(reply, before)
        except MessageTooLarge:
            await self._deliver_less(reply, before)

    async def _deliver_less(self, reply: Reply, before: BeforeSend) -> None:
        less = dataclasses.replace(reply, result=reply.result.without_output())
        try:
            await self._deliver(less, before)
        except MessageTooLarge:
            try:
                await self._deliver(dataclasses.replace(less, result=_without_details(less.result)), before)
            except MessageTooLarge:
                text = f"'{reply.queue}' accepts no result; raise its maximum message size"
                raise ServiceBusMisconfigured(text) from None

    async def _deliver(self, reply: Reply, before: BeforeSend) -> None:
        message = self._message_of(reply)
        await self._outbox.deliver(reply.queue, message, seconds=self._publish_seconds, before=before)

    async def publish_together(self, replies: Sequence[Reply], before: BeforeSend) -> None:
        """Do the same in one attempt, with one batch for each queue; see `Outbox.deliver_together`."""
        batches: defaultdict[str, list[Message]] = defaultdict(list)
        for reply in replies:
            batches[reply.queue].append(self._message_of(reply))
            await asyncio.sleep(0)  # the other lanes need the loop meanwhile
        for queue, messages in batches.items():
            await self._outbox.deliver_together(queue, messages, before=before)

    def _message_of(self, reply: Reply) -> Message:
        address = reply.address
        message = reply.result.to_message(
            address.session_id, self._time_to_live, variant=reply.variant, reply_key=address.reply_key
        )
        if reply.queue not in self._gateway_queues:
            return message
        # The queue's own time to live counts: nobody but the gateway has the result, and it may be down for hours.
        message = dataclasses.replace(message, time_to_live=None)
        return message.with_property(UNPROVEN_PROPERTY, True) if reply.of_stranger else message


def _without_details(result: FlowResult) -> FlowResult:
    """Return the result without the texts of the flow."""
    run = None if result.run is None else result.run.model_copy(update={"tracking": {}})
    error = result.error
    if error is not None:
        error = error.model_copy(update={"message": error.message[:_MAX_MESSAGE_CHARACTERS]})
    return result.model_copy(update={"run": run, "error": error, "output_type": None})
