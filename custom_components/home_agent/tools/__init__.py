"""The tools that Home Agent offers to models, one in each file."""
