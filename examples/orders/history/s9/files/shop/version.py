"""The version that the footer and /healthz show."""

VERSION = "9-swap"
