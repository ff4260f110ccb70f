"""A privilege of Dataverse: its name, and how far it reaches."""

from __future__ import annotations

import re
from enum import IntEnum

NAME = re.compile(r"prv[A-Za-z0-9_]{1,200}")
"""What a privilege's name may be: with anything else in it, a question would not be the one that was meant."""


class Depth(IntEnum):
    """How far a privilege reaches, from the user's own rows to the whole organisation."""

    BASIC = 1
    LOCAL = 2
    DEEP = 3
    GLOBAL = 4
