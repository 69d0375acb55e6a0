"""Measurements of moe_numpy, against matrix products alone and against PyTorch. Run with python -m moe_numpy bench."""
