"""Publishing results to a queue that takes small messages only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from flow_contracts.message import Message
from flow_contracts.request import ReplyAddress
from flow_contracts.result import FlowError, FlowResult, FlowRun, Status
from flow_contracts.servicebus import BeforeSend, MessageTooLarge, ServiceBusFailure, unconditionally
from flow_worker.pipeline.outcome import Reply
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.replies import Replies

LARGE = FlowResult(
    status=Status.FAILED,
    flow="f",
    output="o" * 500_000,
    output_encoding="text",
    error=FlowError(code="flow_failed", message="m" * 50_000),
    run=FlowRun(run_id="r", tracking={"x-ms-a": "t" * 200_000}),
    correlation_id="c",
    request_message_id="m",
)


@dataclass
class Queue:
    max_bytes: int
    messages: list[Message] = field(default_factory=list)

    async def send(self, queue: str, message: Message, before: BeforeSend) -> None:
        if len(message.body) > self.max_bytes:
            raise MessageTooLarge
        self.messages.append(message)


async def publish(queue: Queue) -> None:
    replies = Replies(Outbox(queue), time_to_live=timedelta(days=1), publish_seconds=5)  # type: ignore[arg-type]
    await replies.publish(Reply(LARGE, ReplyAddress("m", "c", "s", None), "replies"), unconditionally)


@pytest.mark.parametrize(
    ("max_bytes", "kept"), [(10**6, {"output", "run"}), (300_000, {"run"}), (2_000, set())], ids=["all", "run", "least"]
)
async def test_a_result_loses_what_the_queue_does_not_take(max_bytes: int, kept: set[str]) -> None:
    queue = Queue(max_bytes)
    await publish(queue)
    [message] = queue.messages
    result = FlowResult.from_message(message)
    assert (result.status, result.error and result.error.code, result.run and result.run.run_id) == (
        *(Status.FAILED, "flow_failed", "r"),
    )
    assert (result.output is not None, bool(result.run and result.run.tracking)) == ("output" in kept, "run" in kept)


async def test_a_queue_that_takes_no_result_is_a_failure_of_the_queue() -> None:
    with pytest.raises(ServiceBusFailure, match="maximum message size"):
        await publish(Queue(10))
