"""People who keep notes."""
