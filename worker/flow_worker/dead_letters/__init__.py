"""Selects, shows, replays and discards dead letters, for the command line and the demo."""
