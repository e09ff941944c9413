"""A month of a household at speed: what was shown that is not true, and what it costs.

    .venv/bin/python -m benchmarks.thirty_days [--days 30] [--seed 1] [--changes]

Runs tests/simulation for so many days, ten of them in a minute or two. Prints polls,
writes and loads a day, how often each thing happened, and all that was shown and not
true. --changes prints each repair that came and went.
"""

import argparse
import os
import sys

import pytest


def main() -> int:
    """Read the command line and run the simulation."""
    parser = argparse.ArgumentParser(description="Simulate days of a household")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--changes", action="store_true")
    arguments = parser.parse_args()
    os.environ["HOME_AGENT_TEST_DAYS"] = str(arguments.days)
    os.environ["HOME_AGENT_TEST_SEED"] = str(arguments.seed)
    os.environ["HOME_AGENT_TEST_CHANGES"] = "1" if arguments.changes else ""
    options = ["-q", "-n", "0", "--timeout=0", "-s"]
    return pytest.main([*options, "tests/simulation"])


if __name__ == "__main__":
    sys.exit(main())
