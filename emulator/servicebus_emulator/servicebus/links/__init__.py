"""The links of one connection, and the nodes that they are attached to."""
