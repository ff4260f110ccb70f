"""Runs the worker: lanes and periodic tasks, the messages that they send, and the supervisor that drains them."""
