"""Stores of texts and their vectors: embedded (SQLite) or a Chroma server."""
