"""Live tests."""
