"""The logic behind the programs in scripts/."""
