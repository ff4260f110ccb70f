"""A Dataverse privilege: the form of its name, and its depth."""

from __future__ import annotations

import re
from enum import IntEnum

PRIVILEGE_NAME = re.compile(r"prv[A-Za-z0-9_]{1,200}")
"""The form of a privilege's name. Any other character could change the query that the name is put into."""


class Depth(IntEnum):
    """The reach of a privilege: from the user's own rows (1) to the whole organization (4)."""

    BASIC = 1
    LOCAL = 2
    DEEP = 3
    GLOBAL = 4
