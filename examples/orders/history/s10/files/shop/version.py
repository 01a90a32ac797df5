"""The version that the footer and /healthz show."""

VERSION = "10-swap"
