"""Settings: what is common, production, development."""
