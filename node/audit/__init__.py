"""The audit trail beyond its rows: the chain, its head, and what is told to others."""
