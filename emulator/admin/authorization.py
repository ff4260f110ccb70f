"""Who may: what the HTTP side asks of whoever knows keys and tokens."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Protocol

from emulator.servicebus.errors import UNAUTHORIZED, ServiceBusError

_FORM = re.compile(r"(SharedAccessSignature \S*\bsig=\S+|Bearer \S+)", re.IGNORECASE)


class Right(StrEnum):
    """What a key or a role gives, in the service's words."""

    SEND = "Send"
    LISTEN = "Listen"
    MANAGE = "Manage"


class Gatekeeper(Protocol):
    """Decides on each request."""

    def authorize(self, header_value: str | None, entity: str, right: Right) -> None:
        """Raises `ServiceBusError` (unauthorized) unless the `Authorization` header gives this right.

        `entity` is a queue's name, empty for the namespace.
        """
        ...


class AnyToken:
    """Lets in whoever shows a token of a known form, as the development emulator does."""

    def authorize(self, header_value: str | None, entity: str, right: Right) -> None:
        """See `Gatekeeper`."""
        if header_value is None:
            raise ServiceBusError(UNAUTHORIZED, f"'{right}' on '{entity}': the Authorization header is missing.")
        if _FORM.fullmatch(header_value.strip()) is None:
            text = "the Authorization header must be 'SharedAccessSignature …' or 'Bearer …'."
            raise ServiceBusError(UNAUTHORIZED, f"'{right}' on '{entity}': {text}")
