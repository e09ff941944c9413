"""The integration in Home Assistant's own pages, seen by a real browser."""
