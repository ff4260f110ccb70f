"""The same job as a Celery task, over kombu's transport for Azure Service Bus: what Celery's worker is given by `-A`.

Connection string and flow URL are in the environment. Only the way to the broker is ours: kombu's transport makes its
clients for `*.servicebus.windows.net`, and has no place for an emulator's connection string.
"""

from __future__ import annotations

import os
import threading
from functools import cache, cached_property
from types import SimpleNamespace

import httpx
from azure.core.exceptions import ResourceExistsError
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusSender
from celery import Celery
from kombu.transport import TRANSPORT_ALIASES, azureservicebus
from pydantic import JsonValue

from bench.worker.flow import TRACKING
from bench.worker.subjects import CONNECTION_STRING, FLOW_URL, REPLIES, REQUESTS

_of_thread = threading.local()


class Queues:
    """In place of the administration client, which talks HTTPS alone: all queues are there."""

    def create_queue(self, queue_name: str, **_: object) -> None:
        """Raises `ResourceExistsError`, as the service does."""
        raise ResourceExistsError(queue_name)

    def get_queue_runtime_properties(self, queue_name: str) -> SimpleNamespace:
        """How much is in it is asked for once, when a queue is declared, and used by nobody."""
        return SimpleNamespace(total_message_count=0)


class Channel(azureservicebus.Channel):
    """Of kombu, but to the broker of this bench."""

    @cached_property
    def queue_service(self) -> ServiceBusClient:
        """The client of all its receivers and senders."""
        return ServiceBusClient.from_connection_string(os.environ[CONNECTION_STRING])

    @cached_property
    def queue_mgmt_service(self) -> Queues:
        """What queues are declared with."""
        return Queues()


class Transport(azureservicebus.Transport):
    """Of kombu, with the channel above."""

    Channel = Channel


def call(wanted: JsonValue, identifier: str) -> None:
    """The task. A message that was handled twice is told twice, but replied to once: the queue knows duplicates."""
    response = _http().post(os.environ[FLOW_URL], json=wanted, headers={TRACKING: identifier})
    _replies().send_messages(
        ServiceBusMessage(
            response.content, session_id=identifier, correlation_id=identifier, message_id=f"result-{identifier}"
        )
    )


@cache
def _http() -> httpx.Client:
    return httpx.Client()  # may be shared by threads


@cache
def _client() -> ServiceBusClient:  # not the channel's: that one stays in the process it was made in
    return ServiceBusClient.from_connection_string(os.environ[CONNECTION_STRING])


def _replies() -> ServiceBusSender:
    """One for each thread: the SDK's senders may not be shared."""
    if not hasattr(_of_thread, "sender"):
        _of_thread.sender = _client().get_queue_sender(REPLIES)
    sender: ServiceBusSender = _of_thread.sender
    return sender


TRANSPORT_ALIASES["bench"] = f"{__name__}:Transport"
app = Celery("bench", broker="bench://policy:key@namespace", set_as_current=False)
app.conf.update(
    task_default_queue=REQUESTS,
    task_acks_late=True,
    task_ignore_result=True,
    worker_enable_remote_control=False,  # it would want a queue for each worker
)
task = app.task(call, name="bench.call")
