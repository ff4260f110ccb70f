"""Processes the same requests as Celery tasks over kombu's Azure Service Bus transport: `celery -A` loads this module.

The environment variables `BENCH_CONNECTION_STRING` and `BENCH_FLOW_URL` name the broker and the flow. Only the
connection to the broker differs from plain kombu: its transport connects to `*.servicebus.windows.net` and takes no
connection string of an emulator.
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

from bench.worker.baselines import CONNECTION_STRING, FLOW_URL, REPLIES, REQUESTS
from bench.worker.flow_server import TRACKING

_thread_local = threading.local()


class ExistingQueues:
    """Replaces the administration client, which supports HTTPS only. All queues exist already."""

    def create_queue(self, queue_name: str, **_: object) -> None:
        """Raise `ResourceExistsError`, as the service does for an existing queue."""
        raise ResourceExistsError(queue_name)

    def get_queue_runtime_properties(self, queue_name: str) -> SimpleNamespace:
        """Return an empty queue's properties. kombu reads them once, to declare a queue, and ignores the count."""
        return SimpleNamespace(total_message_count=0)


class Channel(azureservicebus.Channel):
    """kombu's channel, connected to the broker of the benchmark."""

    @cached_property
    def queue_service(self) -> ServiceBusClient:
        """The client of all receivers and senders of this channel."""
        return ServiceBusClient.from_connection_string(os.environ[CONNECTION_STRING])

    @cached_property
    def queue_mgmt_service(self) -> ExistingQueues:
        """The client that declares queues."""
        return ExistingQueues()


class Transport(azureservicebus.Transport):
    """kombu's transport with the channel above."""

    Channel = Channel


def call_flow(input_: JsonValue, correlation_id: str) -> None:
    """Call the flow and send its answer to the reply queue: the body of the task.

    A task that runs twice sends two messages. The reply queue's duplicate detection drops the second one.
    """
    response = _http().post(os.environ[FLOW_URL], json=input_, headers={TRACKING: correlation_id})
    _reply_sender().send_messages(
        ServiceBusMessage(
            response.content,
            session_id=correlation_id,
            correlation_id=correlation_id,
            message_id=f"result-{correlation_id}",
        )
    )


@cache
def _http() -> httpx.Client:
    return httpx.Client()  # threads may share it


@cache
def _client() -> ServiceBusClient:  # not the channel's, which belongs to the parent process of the prefork pool
    return ServiceBusClient.from_connection_string(os.environ[CONNECTION_STRING])


def _reply_sender() -> ServiceBusSender:
    """Return the sender of this thread: the SDK's senders are not thread-safe."""
    if not hasattr(_thread_local, "sender"):
        _thread_local.sender = _client().get_queue_sender(REPLIES)
    sender: ServiceBusSender = _thread_local.sender
    return sender


TRANSPORT_ALIASES["bench"] = f"{__name__}:Transport"
app = Celery("bench", broker="bench://policy:key@namespace", set_as_current=False)
app.conf.update(
    task_default_queue=REQUESTS,
    task_acks_late=True,
    task_ignore_result=True,
    worker_enable_remote_control=False,  # it needs one more queue for each worker
)
task = app.task(call_flow, name="bench.call")
