"""The pytest plugin: registers the fixtures `service_bus` and `service_bus_queues` in every project that installs this.

pytest loads the plugin at each start, so it imports the emulator only when a test uses a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from servicebus_emulator.testing import QueueSettings, ServiceBus


@pytest.fixture
def service_bus_queues() -> Sequence[QueueSettings | str]:
    """The queues of `service_bus`: none. Override this fixture to name some."""
    return ()


@pytest.fixture
def service_bus(service_bus_queues: Sequence[QueueSettings | str]) -> Iterator[ServiceBus]:
    """A Service Bus for one test, on a thread of its own, so that blocking tests and asyncio tests can both use it."""
    from servicebus_emulator.testing import emulator_in_thread

    with emulator_in_thread(*service_bus_queues) as running:
        yield running
