"""Benchmarks that compare programs within one run: `python -m bench.NAME --help`."""
