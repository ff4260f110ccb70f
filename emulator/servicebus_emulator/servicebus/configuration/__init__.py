"""Reads queues and policies from the official emulator's `config.json` format."""
