"""Checks of the keys of the gateway's statements: readable, protected, and the same on both sides."""

from __future__ import annotations

import os
from functools import partial

from flow_worker.access.statement_key_files import find_public_keys, find_signing_key
from flow_worker.doctor.finding import Check, Result, failed, ok, unseen
from flow_worker.settings import InvalidSettings, Settings, StatementSettings

_REPLACE = "Give the worker the public half of the gateway's key: openssl pkey -in KEY -pubout"
_ONLY_OWNER = "Let only administrators write to it: chmod go-w"


def checks(settings: Settings) -> list[Check]:
    """Return the checks; none without a queue of a gateway."""
    if not settings.gateway_reply_queues:
        return []
    return [Check("statements", "public keys", partial(_check_keys, settings.statements))]


async def _check_keys(settings: StatementSettings) -> list[Result]:
    try:
        known = find_public_keys(settings)
    except InvalidSettings as error:
        place = "public_keys or public_keys_file"
        return [failed(str(error), f"Start the gateway once on this machine, or set statements.{place}. {_REPLACE}")]
    return [ok(f"the worker verifies with {', '.join(known)}"), *_writers(settings), _signing_key(settings, set(known))]


def _writers(settings: StatementSettings) -> list[Result]:
    """A party that may add a key to the file may start every flow for everybody."""
    if settings.has_fixed_public_keys or os.name != "posix":
        return []
    path = settings.public_path.absolute()
    if path.stat().st_mode & 0o022:
        return [failed(f"other users may write to '{path}'", f"{_ONLY_OWNER} '{path}'", aspect="writers")]
    return []


def _signing_key(settings: StatementSettings, known: set[str]) -> Result:
    aspect = "signing key"
    try:
        key = find_signing_key(settings)
    except InvalidSettings as error:
        return failed(str(error), "Correct it, or remove it from the settings of the worker.", aspect=aspect)
    if key is None:
        return unseen("the gateway's private key is not on this machine", aspect=aspect)
    if key.kid not in known:
        return failed(f"the gateway signs with {key.kid}, which the worker does not have", _REPLACE, aspect=aspect)
    return ok(f"the gateway signs with {key.kid}", aspect=aspect)
