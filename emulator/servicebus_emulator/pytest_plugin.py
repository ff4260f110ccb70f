"""The pytest plugin: the fixtures `service_bus` and `service_bus_queues`.

pytest loads the plugin at every start of every project that installs the package. It therefore imports the emulator
only when a test uses a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from servicebus_emulator.testing import EmulatedServiceBus, QueueSettings


@pytest.fixture
def service_bus_queues() -> Sequence[QueueSettings | str]:
    """The queues of `service_bus`. Override this fixture to name them; by default there is no queue."""
    return ()


@pytest.fixture
def service_bus(service_bus_queues: Sequence[QueueSettings | str]) -> Iterator[EmulatedServiceBus]:
    """A Service Bus for one test. It runs in a separate thread, so that blocking and asyncio tests can use it."""
    from servicebus_emulator.testing import running_service_bus_in_thread

    with running_service_bus_in_thread(*service_bus_queues) as bus:
        yield bus
