"""Compares the worker with the minimum for its work, with the documented use of the SDK, and with Celery."""
