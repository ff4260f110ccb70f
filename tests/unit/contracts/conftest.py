from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)  # a slow machine must not fail a test
settings.load_profile("patient")
