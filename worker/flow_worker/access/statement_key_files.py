"""Finds the keys of the statements: the gateway's private key, which it makes on first start, and the workers' keys."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from flow_worker.access import key_file
from flow_worker.access.statement_keys import (
    MAX_KEY_BYTES,
    BadKey,
    SigningKey,
    StatementKey,
    new_signing_key,
    parse_public_keys,
    parse_signing_key,
    private_pem,
    public_jwks,
)
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.reserve import FULL_DISK
from flow_worker.settings import InvalidSettings
from flow_worker.settings.statements import StatementSettings
from flow_worker.telemetry.logs import log
from flow_worker.telemetry.seldom import Seldom

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_RETRY_SECONDS = 1.0
_MIN_PEM_BYTES = 200
_EARLIER_KEYS = 3
"""The earlier keys that stay in the file of public keys: messages signed with them may still wait in the queue."""

STATEMENT_KEYS_UNAVAILABLE: Final = "statement_keys_unavailable"
"""The code of a request that waits for the public keys."""


# --- the gateway: the private key ----------------------------------------------------------------------------------


async def open_signing_key(settings: StatementSettings) -> SigningKey:
    """Return the gateway's private key. If the settings name none, make it on first start, and publish its public half.

    Waits while the disk is full. Raises `InvalidSettings` for a key that can never be used.
    """
    while True:
        try:
            key = await asyncio.to_thread(_signing_key, settings)
        except OSError as error:
            path = settings.key_path.absolute()
            if error.errno not in FULL_DISK:
                cause = f"'{path}' cannot be created ({error.strerror}); name a folder in which the gateway may write"
                raise InvalidSettings(f"statements.key_path: {cause}") from None
            sentence = f"The disk has no room for '{path}', the key of the statements. The gateway retries."
            log(_log, logging.WARNING, "statements.signing_key_unavailable", sentence)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            log(_log, logging.INFO, "statements.signing", f"The gateway signs with the key {key.kid}.", key=key.kid)
            return key


def _signing_key(settings: StatementSettings) -> SigningKey:
    key = find_signing_key(settings)
    path = settings.key_path.absolute()
    if key is not None:
        if not settings.has_signing_key:
            key_file.restrict(path)
            publish(key, settings)  # the worker needs it, and somebody may have deleted it
        return key
    made = new_signing_key()
    key_file.create(path, private_pem(made))
    key_file.await_content(path, _MIN_PEM_BYTES)
    key = find_signing_key(settings)  # another replica may have been faster
    if key is None:
        raise InvalidSettings(f"statements.key_path: the file '{path}' was deleted; start the gateway again")
    # Before the first statement: no worker ever meets one whose key it cannot find.
    earlier = publish(key, settings)
    if earlier:
        sentence = (
            f"The gateway made a new key. The workers still accept the earlier keys {', '.join(earlier)}; if one was "
            f"stolen, remove it from '{_public_path(settings)}'."
        )
        log(_log, logging.WARNING, "statements.key_replaced", sentence, key=key.kid, earlier=", ".join(earlier))
    return key


def find_signing_key(settings: StatementSettings) -> SigningKey | None:
    """Return the existing private key; None if the gateway has not made it yet. Raises `InvalidSettings`."""
    if settings.signing_key is not None:
        return _parsed("signing_key", "the value", settings.signing_key.get_secret_value(), parse_signing_key)
    if settings.signing_key_file is not None:
        return _of_file("signing_key_file", settings.signing_key_file, parse_signing_key)
    path = settings.key_path.absolute()
    if not path.exists():
        return None
    return _of_file("key_path", path, parse_signing_key)


def publish(key: SigningKey, settings: StatementSettings) -> list[str]:
    """Write the public half into the file in which a worker on this machine finds it. Raises `OSError`.

    Return the IDs of the earlier keys in the file. With them, too, somebody may sign statements.
    """
    path = _public_path(settings)
    try:
        earlier = parse_public_keys(path.read_bytes().decode("utf-8", "replace"))
    except (FileNotFoundError, BadKey):
        earlier = {}
    kept = [each for each in earlier.values() if each.kid != key.kid][:_EARLIER_KEYS]
    if key.kid not in earlier:
        key_file.replace(path, public_jwks([key.verifying, *kept]), 0o644)
    return [each.kid for each in kept]


def _public_path(settings: StatementSettings) -> Path:
    return Path(f"{settings.key_path}.public.json").absolute()


# --- the worker: the public keys -----------------------------------------------------------------------------------


def find_public_keys(settings: StatementSettings) -> Mapping[str, StatementKey]:
    """Return the workers' public keys by their IDs. Raises `InvalidSettings` if there are none, or one is unusable."""
    if settings.public_keys is not None:
        return _parsed("public_keys", "the value", settings.public_keys, parse_public_keys)
    if settings.has_fixed_public_keys and (key := find_signing_key(settings)) is not None:
        return {key.kid: key.verifying}
    name = "key_path" if settings.public_keys_file is None else "public_keys_file"
    return _of_file(name, settings.public_path.absolute(), parse_public_keys)


class PublicKeys:
    """The public keys from the settings, or from a file that is read again when it changes.

    If the file is not there or not readable, all requests wait: neither a known nor an unknown key is then certain.
    """

    def __init__(self, settings: StatementSettings, now: Callable[[], float] = time.monotonic) -> None:
        """Raises `InvalidSettings` if the settings themselves hold an unusable key."""
        self._settings = settings
        self._path = None if settings.has_fixed_public_keys else settings.public_path.absolute()
        self._now = now
        self._keys: Mapping[str, StatementKey] = {} if self._path is not None else find_public_keys(settings)
        self._stamp: tuple[int, ...] | None = None
        self._checked_at = float("-inf")
        self._begun = self._ended = 0
        """The numbers of the newest check that began, and of the newest one that ended."""
        self._fault: str | None = None
        self._unknown = Seldom(monotonic=now)
        self._lock = asyncio.Lock()

    async def find(self, kid: str) -> StatementKey | None:
        """See `StatementKeys.find`."""
        known = self._keys.get(kid)
        if self._path is None:
            return self._reported(kid, known)
        if known is None or self._fault is not None or self._now() - self._checked_at > self._settings.refresh_seconds:
            await self._check(self._path)
        if self._fault is not None:
            raise TemporarilyUnavailable(
                STATEMENT_KEYS_UNAVAILABLE, f"the worker cannot read the gateway's keys: {self._fault}"
            )
        return self._reported(kid, self._keys.get(kid))

    def _reported(self, kid: str, key: StatementKey | None) -> StatementKey | None:
        """Log an unknown key: the result blames the sender's claim, and mostly only the operator can mend it."""
        if key is None and self._unknown.is_due(kid):
            sentence = (
                "A gateway signs with a key that is not among the worker's public keys (statements.public_keys). "
                "Compare it with the gateway's event statements.signing. If no gateway has it, somebody else sends to "
                "this queue."
            )
            log(_log, logging.WARNING, "statements.key_unknown", sentence, key=kid)
        return key

    async def _check(self, path: Path) -> None:
        """Read the file if it has changed. Concurrent callers share a check that began after they asked for it."""
        asked = self._begun
        async with self._lock:
            if self._ended > asked:
                return
            self._begun += 1
            number, checked_at = self._begun, self._now()
            try:
                stamp = await asyncio.to_thread(_stamp, path)
                # An unknown key alone is no reason to read the file again: anybody can invent one.
                if stamp != self._stamp or self._fault is not None:
                    self._keys = await asyncio.to_thread(find_public_keys, self._settings)
                    self._report(path)
                self._stamp, self._fault = stamp, None
            except (OSError, InvalidSettings) as error:
                self._fail(error.strerror or "" if isinstance(error, OSError) else str(error))
            # Not if the caller was cancelled meanwhile: the others must not take that for a check.
            self._checked_at, self._ended = checked_at, number

    def _report(self, path: Path) -> None:
        sentence = f"The worker verifies the gateway's statements with the keys in '{path}'."
        log(_log, logging.INFO, "statements.keys_read", sentence, keys=", ".join(self._keys))

    def _fail(self, fault: str) -> None:
        self._keys, self._stamp = {}, None
        if self._fault is None:
            sentence = f"The worker cannot read the gateway's public keys ({self._path}): {fault}. Its requests wait."
            log(_log, logging.WARNING, "statements.keys_unavailable", sentence)
        self._fault = fault


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _of_file(setting: str, path: Path, parse: Callable[[str], _T]) -> _T:
    try:
        with path.open("rb") as opened:
            text = opened.read(MAX_KEY_BYTES + 1).decode("utf-8", "replace")
    except OSError as error:
        cause = f"'{path}' cannot be read ({error.strerror}); name a file that this user may read"
        raise InvalidSettings(f"statements.{setting}: {cause}") from None
    return _parsed(setting, f"'{path}'", text, parse)


def _parsed(setting: str, place: str, text: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse(text)
    except BadKey as error:
        raise InvalidSettings(f"statements.{setting}: the key in {place} {error}") from None
