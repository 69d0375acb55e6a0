"""Instruments: what a router does, found by probing it."""
