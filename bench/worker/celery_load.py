"""The requests that are worked off by Celery: the same 2 KB, as Celery writes them (its protocol 2)."""

from __future__ import annotations

import os
import uuid
from importlib.util import find_spec

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from bench.worker.load import BATCH, INPUT
from bench.worker.stage import CELERY, CELERY_PREFORK
from bench.worker.subjects import REQUESTS
from flow_worker.demo.environment import EmulatorClient


def missing(subject: str) -> str | None:
    """Why this subject cannot be measured here."""
    if subject not in (CELERY, CELERY_PREFORK):
        return None
    if not (find_spec("celery") and find_spec("kombu")):
        return 'Celery is not installed; `pip install "celery[azureservicebus]"` gets it'
    return None if subject == CELERY or hasattr(os, "fork") else "Celery's pool of processes needs fork"


async def fill(emulator: EmulatorClient, count: int) -> None:
    """Put so many requests into the queue, as fast as it takes them."""
    async with (
        ServiceBusClient.from_connection_string(emulator.connection_string) as client,
        client.get_queue_sender(REQUESTS) as sender,
    ):
        for start in range(0, count, BATCH):
            bodies = written(min(BATCH, count - start))
            await sender.send_messages([ServiceBusMessage(body) for body in bodies])


def written(count: int) -> list[str]:
    """So many tasks, each as kombu's transport puts it into a message."""
    from kombu.utils.json import dumps  # imported here: Celery is there only where it is measured

    from bench.worker.celery_app import app, task

    with app.connection_for_write("memory://") as connection:
        for _ in range(count):
            task.apply_async((INPUT, str(uuid.uuid4())), connection=connection)
        return [dumps(connection.default_channel._get(REQUESTS)) for _ in range(count)]
