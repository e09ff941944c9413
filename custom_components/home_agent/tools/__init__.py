"""The tools that Home Agent gives to models: one file each."""
