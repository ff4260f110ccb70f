"""The demo: runs the whole system on one machine, with the emulator and the worker as separate processes."""
