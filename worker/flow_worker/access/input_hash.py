"""The hash of a request's input, which survives every path of the request."""

from __future__ import annotations

import hashlib
import json

from pydantic import JsonValue

_encode = json.JSONEncoder(sort_keys=True).encode
"""`json.dumps` with an option would make a new encoder each time."""


def input_hash(value: JsonValue) -> str:
    """Return the SHA-256 of the input in hexadecimal.

    Over the value with sorted keys and not over the bytes of the message: a continuation and a replay encode the same
    value anew.
    """
    return hashlib.sha256(_encode(value).encode()).hexdigest()
