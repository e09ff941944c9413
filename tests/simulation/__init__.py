"""Days of a household at speed, and whether Home Agent then shows what is true."""
