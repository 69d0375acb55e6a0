"""Tiny published models, made by transformers, and its numbers: the references of ``test_parity_models.py``."""
