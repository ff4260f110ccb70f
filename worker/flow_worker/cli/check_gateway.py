"""The part of `flow-worker check` that concerns a gateway: its keys, and the worker for its queue."""

from __future__ import annotations

import os

from flow_worker.access.statement_key_files import find_public_keys, find_signing_key
from flow_worker.settings import InvalidSettings, Settings
from flow_worker.settings.gateway_queue import configured_queues, unserved


def require_usable_keys(loaded: Settings) -> None:
    """Raise `InvalidSettings` for a key in the settings with which the gateway or the worker would not start.

    A worker's user need not be able to read the file of the private key.
    """
    keys = loaded.statements
    file = keys.signing_key_file
    if keys.signing_key is not None or (file is not None and os.access(file, os.R_OK)):
        find_signing_key(keys)
    if keys.public_keys is not None:
        find_public_keys(keys)


def statement_keys(loaded: Settings) -> list[str]:
    """Return what the worker has to verify a gateway's statements; nothing without a queue of a gateway."""
    if not loaded.gateway_reply_queues:
        return []
    try:
        keys = find_public_keys(loaded.statements)
    except InvalidSettings as error:
        return [f"Warning: the requests of the gateway wait until its public keys are readable. {error}"]
    return [f"Keys of the gateway's statements: {', '.join(keys)}. Each gateway logs the one with which it signs."]


def queue_warnings(loaded: Settings) -> list[str]:
    """Return a warning if no worker serves the gateway. Raises what `unserved` raises."""
    warning = unserved(loaded.gateway, configured_queues(loaded))
    return [] if warning is None else [warning]
