"""Access control: credentials, the permissions they carry, and the rights of a connection."""

from servicebus_emulator.servicebus.access.authorizer import UNCHECKED, AccessMode, Authorizer, JwtValidator
from servicebus_emulator.servicebus.access.connection_rights import ConnectionRights
from servicebus_emulator.servicebus.access.permissions import Permission, ValidatedCredential, path_of
from servicebus_emulator.servicebus.access.policies import Right

__all__ = [
    "UNCHECKED",
    "AccessMode",
    "Authorizer",
    "ConnectionRights",
    "JwtValidator",
    "Permission",
    "Right",
    "ValidatedCredential",
    "path_of",
]
