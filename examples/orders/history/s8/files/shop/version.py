"""The version that the footer and /healthz show."""

VERSION = "8-swap"
