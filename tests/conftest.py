"""What holds for all tests."""

from __future__ import annotations

import tracemalloc  # noqa: F401 - pytest's hook for lost warnings imports it late, and two threads at once then fail

from hypothesis import settings

settings.register_profile("flow-worker", deadline=None)  # the machine's noise is no finding
settings.load_profile("flow-worker")
