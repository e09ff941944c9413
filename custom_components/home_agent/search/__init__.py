"""The search over the exposed entities."""
