"""A seeded storm of faults over real processes, and an oracle that counts results and flow calls from outside."""
