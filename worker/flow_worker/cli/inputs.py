"""Reads texts that people write with other tools: files and stdin in any Unicode encoding, and claims."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flow_contracts.claim import clean_claim


class UnusableInput(Exception):
    """The text cannot be used; the message says where it is and what to change. It quotes nothing of it."""


def read_stdin() -> str:
    """Return stdin as text. Raise `UnusableInput`."""
    # Bytes: the text may come from a file, whose encoding is not that of the terminal.
    return decoded(sys.stdin.buffer.read(), "stdin")


def read_file(path: Path) -> str:
    """Return a file's text. Raise `UnusableInput`."""
    try:
        return decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise UnusableInput(f"{path} cannot be read: {error.strerror or error}.") from None


def decoded(data: bytes, origin: str) -> str:
    """Return the text of bytes in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    PowerShell's `>` writes UTF-16, and editors on Windows write a mark. Raise `UnusableInput`.
    """
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        name = "UTF-8, UTF-16 or UTF-32" if encoding.startswith("utf-8") else encoding.upper()
        raise UnusableInput(f"{origin} is not {name} (byte {error.start}); save it as UTF-8.") from None


def claim_of(text: str, origin: str) -> str:
    """Return the token of a claim that was copied with more than the token. Raise `UnusableInput`."""
    token = clean_claim(text)
    if token.startswith("{"):
        raise UnusableInput(
            f"{origin} holds JSON instead of a token. Give the value of 'accessToken' only; az prints it with "
            "--query accessToken --output tsv."
        )
    if any(character.isspace() for character in token):
        raise UnusableInput(f"{origin} has white space inside the token. Copy the token as one line.")
    return token
