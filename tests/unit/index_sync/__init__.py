"""Tests of custom_components/home_agent/index_sync."""
