"""The command line `flow-worker`: one module per command group."""
