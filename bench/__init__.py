"""Measurements, each as a ratio within one run: `python -m bench.NAME --help`."""
