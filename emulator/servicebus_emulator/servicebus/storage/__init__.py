"""Implementations of `MessageStorage` that outlive the process."""
