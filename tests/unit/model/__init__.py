"""Tests of custom_components/home_agent/model."""
