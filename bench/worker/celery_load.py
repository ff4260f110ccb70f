"""Generates the requests for Celery: the same 2 KB, in the format of Celery's message protocol 2."""

from __future__ import annotations

import os
import uuid
from importlib.util import find_spec

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from bench.worker.baselines import REQUESTS
from bench.worker.case import Subject
from bench.worker.load import BATCH, INPUT
from flow_worker.demo.environment import EmulatorClient


def unavailable(subject: Subject) -> str | None:
    """Return the reason why this machine cannot run the subject, or None if it can."""
    if subject not in (Subject.CELERY, Subject.CELERY_PREFORK):
        return None
    if not (find_spec("celery") and find_spec("kombu")):
        return 'Celery is not installed; run `pip install "celery[azureservicebus]"`'
    if subject is Subject.CELERY_PREFORK and not hasattr(os, "fork"):
        return "Celery's process pool needs fork, which this platform does not have"
    return None


async def fill_queue(emulator: EmulatorClient, count: int) -> None:
    """Send tasks to the request queue as fast as the broker accepts them."""
    async with (
        ServiceBusClient.from_connection_string(emulator.connection_string) as client,
        client.get_queue_sender(REQUESTS) as sender,
    ):
        for start in range(0, count, BATCH):
            bodies = message_bodies(min(BATCH, count - start))
            await sender.send_messages([ServiceBusMessage(body) for body in bodies])


def message_bodies(count: int) -> list[str]:
    """Return new tasks in the form that kombu's transport puts into a Service Bus message.

    Celery publishes the tasks to kombu's in-memory transport, and this function takes them from there. So one send can
    carry a whole batch; kombu's Service Bus transport sends each message separately.
    """
    from kombu.utils.json import dumps  # only a run that measures Celery needs Celery and kombu

    from bench.worker.celery_app import app, task

    with app.connection_for_write("memory://") as connection:
        for _ in range(count):
            task.apply_async((INPUT, str(uuid.uuid4())), connection=connection)
        return [dumps(connection.default_channel._get(REQUESTS)) for _ in range(count)]
