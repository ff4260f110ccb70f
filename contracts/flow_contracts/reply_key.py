"""The reply key: a secret that a request carries, and the message authentication code (MAC) of its result under it.

A forged result, or the result of another request, has no valid MAC. So the sender needs no secret IDs to reject it.
"""

from __future__ import annotations

import hmac
import re
import secrets
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from flow_contracts.message import Message

KEY_PROPERTY = "reply_key"
"""The application property of a request. Not a field of the body: workers up to 0.1 refuse a body with a new field."""
MAC_PROPERTY = "reply_mac"
"""The application property of a result: 64 lower-case hexadecimal digits."""

KEY_PATTERN = "[A-Za-z0-9_-]{22,128}"
_FORM = re.compile(KEY_PATTERN)
RULE = "must be a string of 22 to 128 base64url characters (A-Z, a-z, 0-9, '-', '_'), at least 128 random bits"

_RESULT_CONTRACT = re.compile(r"flow-result/[0-9]{1,9}")
"""The first line of each text that a MAC covers. No other use of the key begins a text in this way."""
_ID_DOMAIN = "flow-result-id/1"
_DERIVATION_DOMAIN = "flow-reply-key/1"


def _validate(key: SecretStr) -> SecretStr:
    if not _FORM.fullmatch(key.get_secret_value()):
        raise ValueError(RULE)
    return key


ReplyKey = Annotated[SecretStr, AfterValidator(_validate)]
"""A model's field that holds a reply key. Its errors quote no value."""


def checked_reply_key(key: SecretStr | str) -> SecretStr:
    """Return the key. Raises `ValueError` for a malformed one; the error does not quote it."""
    return _validate(key if isinstance(key, SecretStr) else SecretStr(key))


def new_reply_key() -> SecretStr:
    """Return a random key of 256 bits."""
    return SecretStr(secrets.token_urlsafe(32))


def derived_reply_key(secret: SecretStr, correlation_id: str) -> SecretStr:
    """Return the key of the requests that the holder of `secret` sends under a correlation ID: 64 hexadecimal digits.

    It depends on the correlation ID only, so that a reader who knows just that ID can derive it again.
    """
    return SecretStr(_hmac(secret, f"{_DERIVATION_DOMAIN}\n{correlation_id}".encode("utf-8", "surrogatepass")))


def read_reply_key(value: object) -> SecretStr | None:
    """Return the key that a request's application property holds; None if it is absent or malformed."""
    return SecretStr(value) if isinstance(value, str) and _FORM.fullmatch(value) else None


def result_mac(key: SecretStr, contract: str, message_id: str, body: bytes) -> str:
    """Return the MAC of a result: HMAC-SHA256 over the contract, the result's message ID and the body.

    The key is the text itself in ASCII, not the bytes that it encodes. A line feed follows the contract and the ID. The
    form is unambiguous because the worker writes neither an ID nor a body with a line feed.
    """
    return _hmac(key, f"{contract}\n{message_id}\n".encode("utf-8", "surrogatepass") + body)


def result_id_digest(key: SecretStr, identity: bytes) -> str:
    """Return the digest that makes the message ID of a result unpredictable without the key."""
    return _hmac(key, f"{_ID_DOMAIN}\n".encode() + identity)


def is_signed(message: Message) -> bool:
    """Return whether a result has a MAC, right or wrong."""
    return message.application_properties.get(MAC_PROPERTY) is not None


def is_authentic(message: Message, key: SecretStr) -> bool:
    """Return whether a worker made this result for a request with this key. It does not parse the body."""
    contract, mac = (message.application_properties.get(name) for name in ("contract", MAC_PROPERTY))
    if not isinstance(contract, str) or not _RESULT_CONTRACT.fullmatch(contract):
        return False
    if not isinstance(mac, str) or message.message_id is None:
        return False
    expected = result_mac(key, contract, message.message_id, message.body)
    # As bytes: `compare_digest` raises for a string that is not ASCII.
    return hmac.compare_digest(expected.encode(), mac.encode("utf-8", "surrogatepass"))


def _hmac(key: SecretStr, data: bytes) -> str:
    return hmac.digest(key.get_secret_value().encode("ascii"), data, "sha256").hex()
