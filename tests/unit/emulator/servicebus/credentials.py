"""Credentials for the tests of access control: policies, signatures, and the text of a refusal."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote, quote_plus

import pytest

from servicebus_emulator.servicebus.access import AccessMode, Authorizer, Right
from servicebus_emulator.servicebus.access.policies import DEVELOPMENT_POLICY, Policy
from servicebus_emulator.servicebus.errors import UNAUTHORIZED, ServiceBusError

HOST = "sb://127.0.0.1:5672"
NOW = 1_700_000_000
LATER = NOW + 60
BUS = "https://servicebus.azure.net/"
SENDERS = Policy("senders", Right.SEND, ("first-key", "second-key"))
LISTENERS = Policy("listeners", Right.LISTEN, ("q-key",), entity="q")
EVERY = (DEVELOPMENT_POLICY, SENDERS, LISTENERS)


def authorizer(access: AccessMode = AccessMode.CHECKED) -> Authorizer:
    return Authorizer(EVERY, access=access, clock=lambda: NOW)


def signed(resource: str, name: str = "senders", key: str = "first-key", expiry: object = LATER) -> str:
    """Return a signature as Microsoft's samples compute it."""
    encoded = quote(resource, safe="")
    digest = hmac.digest(key.encode(), f"{encoded}\n{expiry}".encode(), hashlib.sha256)
    return f"SharedAccessSignature sr={encoded}&sig={quote_plus(base64.b64encode(digest))}&se={expiry}&skn={name}"


def refusal(auth: Authorizer, header: str | None, entity: str = "q", right: Right = Right.SEND) -> str:
    """Return the description of the refusal."""
    with pytest.raises(ServiceBusError) as caught:
        auth.authorize(header, entity, right)
    assert caught.value.condition == UNAUTHORIZED
    return caught.value.description
