"""Tests of custom_components/home_agent/vector_store."""
