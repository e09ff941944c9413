"""The tests of Home Agent."""
