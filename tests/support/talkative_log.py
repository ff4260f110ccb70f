"""Keeps the lines of the log in both forms, as at the most talkative level."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flow_worker.telemetry import logs

FORMATS = {"text": logs._Text(), "json": logs._Json()}


@dataclass
class Lines(logging.Handler):
    """Keeps the lines of all but the emulator, which shares the process."""

    written: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in FORMATS})

    def __post_init__(self) -> None:
        super().__init__(logging.DEBUG)

    __hash__ = logging.Handler.__hash__

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("servicebus_emulator"):
            for name, formatter in FORMATS.items():
                self.written[name].append(formatter.format(record))

    def texts(self) -> dict[str, str]:
        """Return the whole log in each form."""
        return {f"log in {name}": "\n".join(lines) for name, lines in self.written.items()}


@contextmanager
def talkative_log() -> Iterator[Lines]:
    """Yield the lines that are written until the block ends."""
    lines, own = Lines(), [logging.getLogger(name) for name in ("flow_worker", "flow_contracts")]
    levels = [logger.level for logger in own]
    logging.getLogger().addHandler(lines)
    for logger in own:
        logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(lines)
        for logger, level in zip(own, levels, strict=True):
            logger.setLevel(level)
