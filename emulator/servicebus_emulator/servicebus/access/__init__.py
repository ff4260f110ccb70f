"""Who may do what: tokens, the rights they prove, and what a connection may do with those it has shown."""

from servicebus_emulator.servicebus.access.claims import Claims
from servicebus_emulator.servicebus.access.gatekeeper import OPEN, Access, BearerTokens, Gatekeeper
from servicebus_emulator.servicebus.access.policies import Right
from servicebus_emulator.servicebus.access.proof import Grant, Proof, path_of

__all__ = ["OPEN", "Access", "BearerTokens", "Claims", "Gatekeeper", "Grant", "Proof", "Right", "path_of"]
