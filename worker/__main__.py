"""`python -m worker`: the same as `flow-worker`."""

from worker.cli import main

main()
