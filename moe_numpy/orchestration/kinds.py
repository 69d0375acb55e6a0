"""The kinds of query, one for each specialist, and what is none of them."""

KINDS = ("prose", "code", "arithmetic", "knowledge")
NONE = "none"
"""Noise, other languages, nothing at all: what the router learns to leave alone."""

OUTCOMES = (*KINDS, NONE)
