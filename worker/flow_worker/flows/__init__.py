"""The flows: which there are, the token that opens them, the call, and what its answer means."""
