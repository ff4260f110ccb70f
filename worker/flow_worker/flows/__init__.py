"""Calls Power Automate flows: the registry, the HTTP call, the verdict on its answer, and the limits."""
