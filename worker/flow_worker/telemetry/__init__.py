"""Telemetry: log lines and the health endpoint."""
