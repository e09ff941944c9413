"""Exchanges recorded from real model servers, and the recorder that makes them."""
