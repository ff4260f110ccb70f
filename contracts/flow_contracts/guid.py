"""GUIDs as text: object IDs, tenants, organizations and Dataverse rows, all in one canonical form."""

from __future__ import annotations

import re
import uuid
from typing import Annotated

from pydantic import AfterValidator

NIL_GUID = "00000000-0000-0000-0000-000000000000"
"""The GUID of all zeros. Entra and Dataverse write it where there is no ID."""
_FORM = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class NotGuid(ValueError):
    """The text is not a GUID. The message does not quote the text, which may be a secret in the wrong place."""

    def __init__(self) -> None:
        super().__init__("must be an ID such as 11111111-2222-3333-4444-555555555555, not a name")


def parse_guid(text: str) -> str:
    """Return the GUID in lower case: 8-4-4-4-12 hexadecimal digits with hyphens. Raises `NotGuid`.

    `uuid.UUID` is not strict enough for text from outside. It also takes braces, `urn:uuid:` and missing hyphens, and
    like `int(…, 16)` underscores, spaces and digits of other scripts.
    """
    if _FORM.fullmatch(text) is None:
        raise NotGuid
    return text.lower()


def parse_typed_guid(text: str) -> str:
    """Return the canonical form of a GUID that a person typed or pasted. Raises `NotGuid`.

    Beside the canonical form it accepts the spellings of other tools that `uuid.UUID` reads: braces, `urn:uuid:`, and
    no hyphens.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise NotGuid from None


Guid = Annotated[str, AfterValidator(parse_guid)]
"""A field that accepts a GUID in either case and holds it in lower case."""
