"""The namespace over HTTP: its administration (ATOM) and its REST data plane, on one port."""
