"""The home: what is exposed, and in which state it is."""
