"""Tests of home: exposed entities, their names and states."""
