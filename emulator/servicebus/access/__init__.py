"""Who may do what: tokens, the rights they prove, and what a connection may do with those it has shown."""

from emulator.servicebus.access.claims import Claims
from emulator.servicebus.access.gatekeeper import OPEN, Access, BearerTokens, Gatekeeper
from emulator.servicebus.access.proof import Grant, Proof, path_of
from emulator.servicebus.policies import Right

__all__ = ["OPEN", "Access", "BearerTokens", "Claims", "Gatekeeper", "Grant", "Proof", "Right", "path_of"]
