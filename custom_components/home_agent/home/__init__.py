"""The home: which entities are exposed, what they are called, and their states."""
