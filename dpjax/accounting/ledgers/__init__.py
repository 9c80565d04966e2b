"""The ledger: what was spent, on what, and what is left."""
