"""Seals continuation messages with a key of the workers, because anybody with the *Send* right can write one.

A continuation carries the proven principal, and the worker acts on it without a second proof. The seal is an
HMAC-SHA256 in an application property, so that workers of earlier versions, which read the body strictly, ignore it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import SecretBytes

from flow_contracts.message import Message, PropertyValue, ReceivedMessage

OWN_PROPERTIES = "fw-"
"""The prefix of the worker's own application properties. The seal covers each of them."""
SEAL = "fw-seal"
PASSED_ON = "continuation-passed-on-"
"""The prefix of the message IDs of messages that a worker passed on unchanged otherwise, with the seal of the first."""

_FORM = "1"
_DOMAIN = "flow-worker continuation 1"


class SealState(StrEnum):
    """The evidence of a message's seal."""

    VALID = "valid"
    MISSING = "missing"
    UNKNOWN_KEY = "of an unknown key"
    OUTDATED = "too old"
    BROKEN = "broken"


class SealKey:
    """A key that seals and verifies, and the short hash that names it in logs."""

    def __init__(self, secret: bytes) -> None:
        # Derived, so that neither the identifier nor a seal is an HMAC under the secret itself for another purpose.
        self._key = SecretBytes(hmac.digest(secret, b"flow-worker continuation seal", "sha256"))
        self.id = hmac.digest(secret, b"flow-worker continuation seal: key ID", "sha256").hex()[:8]

    def mac(self, content: bytes) -> str:
        """Return the HMAC-SHA256 of the content, in hexadecimal."""
        return hmac.digest(self._key.get_secret_value(), content, "sha256").hex()


class Seal:
    """Seals the messages of one continuation queue, and verifies the seals of received ones."""

    def __init__(
        self,
        queue: str,
        key: SealKey,
        previous: SealKey | None = None,
        *,
        valid_for: timedelta,
        accept_unsealed: bool = False,
    ) -> None:
        """`valid_for`: the time after its due time for which a message may arrive. Not longer than the journal's
        retention: once the journal has forgotten the request, a copy of the message would call the flow again.
        `previous`: verifies only, while a key is replaced.
        `accept_unsealed`: trust messages without a seal, during an upgrade from a version that seals none.
        """
        # Service Bus ignores the case of queue names.
        self._queue = queue.lower()
        self.key = key
        self.previous = previous
        self.accepts_unsealed = accept_unsealed
        self._keys: Mapping[str, SealKey] = {each.id: each for each in (previous, key) if each is not None}
        self._valid_for = valid_for

    def summary(self) -> dict[str, str | None]:
        """Return the keys by their IDs, so that a person notices workers with different keys."""
        previous = None if self.previous is None else self.previous.id
        unsealed = "accept" if self.accepts_unsealed else "prove"
        return {"seal_key": self.key.id, "previous_seal_key": previous, "unsealed": unsealed}

    def sealed(self, message: Message, due: datetime) -> Message:
        """Return the message with its seal."""
        until, message_id = int((due + self._valid_for).timestamp()), message.message_id or ""
        mac = self.key.mac(self._content(message, message_id, until))
        seal = f"{_FORM};{self.key.id};{until};{mac};{message_id}"
        return replace(message, application_properties={**message.application_properties, SEAL: seal})

    def check(self, message: ReceivedMessage) -> SealState:
        """Return the state of the message's seal."""
        seal = message.application_properties.get(SEAL)
        if seal is None:
            return SealState.VALID if self.accepts_unsealed else SealState.MISSING
        parts = seal.split(";", 4) if isinstance(seal, str) else []
        if len(parts) != 5 or not (parts[2].isascii() and parts[2].isdecimal() and len(parts[2]) <= 12):
            return SealState.BROKEN
        form, key_id, until, mac, message_id = parts
        key = self._keys.get(key_id)
        if form != _FORM or key is None:
            return SealState.UNKNOWN_KEY
        expected = key.mac(self._content(message, message_id, int(until)))
        # As bytes, because `compare_digest` takes no other text than ASCII.
        if not hmac.compare_digest(expected.encode(), mac.encode("utf-8", "replace")):
            return SealState.BROKEN
        # A worker that passes a message on gives it another ID, because duplicate detection would drop the same one.
        if message.message_id != message_id and not (message.message_id or "").startswith(PASSED_ON):
            return SealState.BROKEN
        return SealState.VALID if message.enqueued_at.timestamp() < int(until) else SealState.OUTDATED

    def _content(self, message: Message, message_id: str, until: int) -> bytes:
        return _content(message, _DOMAIN, self._queue, until, message_id)


def digest_of(message: Message) -> str:
    """Return the SHA-256 of a continuation's content, for the journal, which proves the message without a key."""
    return hashlib.sha256(_content(message, _DOMAIN)).hexdigest()


def own_properties(message: Message) -> dict[str, PropertyValue]:
    """Return the worker's own application properties, apart from the seal. Nulls count: the worker writes none."""
    return {
        name: value
        for name, value in message.application_properties.items()
        if name.startswith(OWN_PROPERTIES) and name != SEAL
    }


def _content(message: Message, *scope: str | int) -> bytes:
    """Return all of a message that a worker acts on. The header's length keeps header and body apart."""
    contract = message.application_properties.get("contract")
    header = json.dumps(
        [*scope, message.correlation_id, message.subject, contract, own_properties(message)], sort_keys=True
    ).encode()
    return b"%d;%b%b" % (len(header), header, message.body)
