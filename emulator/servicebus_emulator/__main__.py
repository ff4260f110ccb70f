"""The entry point of `python -m servicebus_emulator`."""

from servicebus_emulator.cli import main

main()
