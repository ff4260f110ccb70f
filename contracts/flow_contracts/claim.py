"""Cleans a claim that a person or a program copied with more than the token."""

from __future__ import annotations

_AROUND = " \t\r\n\v\f\0\u00a0\u200b\ufeff\"'"
"""Characters that shells, editors and `az` leave around a token, and that no token begins or ends with."""
_HEADER, _SCHEME = "authorization:", "bearer"


def clean_claim(text: str) -> str:
    """Return the token without white space, quotes and `Authorization: Bearer` around it; it may be empty then.

    A file's last line ends in CR LF on Windows, and other tools show the token with its HTTP scheme.
    """
    if text.startswith("eyJ") and text[-1].isalnum():  # the usual case: JSON in base64url begins so
        return text
    text = text.strip(_AROUND)
    if text[: len(_HEADER)].lower() == _HEADER:
        text = text[len(_HEADER) :].lstrip(_AROUND)
    if text[: len(_SCHEME)].lower() == _SCHEME and text[len(_SCHEME) : len(_SCHEME) + 1] in ("", " ", "\t", ":"):
        text = text[len(_SCHEME) :].lstrip(_AROUND + ":")
    return text
