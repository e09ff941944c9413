"""Benchmarks, to be run by hand; each prints a table."""
