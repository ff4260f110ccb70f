"""Measures what the worst input of a stranger costs a running worker: `python -m bench.hostile`."""
