"""A model in memory: its state, loading, priming, checks."""
