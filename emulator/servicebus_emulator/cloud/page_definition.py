"""The definition of the web page: the section `FlowWorker.Page` of the configuration file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from servicebus_emulator.cloud.fields import Definition, Name

Url = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~/-]*)?$", max_length=2048)]
"""Without quotation marks, spaces and semicolons: the URL becomes part of a header."""


class PageUser(Definition):
    """A user whose token the page can get."""

    name: Name
    roles: tuple[Name, ...] = ()
    """The app roles in the token."""


class PageDefinition(Definition):
    """The gateway that the page calls, and the users that it offers."""

    gateway: Url = "http://127.0.0.1:8081"
    users: tuple[PageUser, ...] = (
        PageUser(name="ada", roles=("Quotes.Create",)),
        PageUser(name="grace", roles=("Quotes.Create",)),
        PageUser(name="bob"),
    )

    @field_validator("users")
    @classmethod
    def _names_differ(cls, users: tuple[PageUser, ...]) -> tuple[PageUser, ...]:
        names = [user.name for user in users]
        if len(set(names)) < len(names):
            raise ValueError("there are two users of the same name")
        return users
