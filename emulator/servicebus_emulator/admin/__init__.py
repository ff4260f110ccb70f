"""The HTTP side of the namespace: administration (ATOM) and REST data plane, on one port."""
