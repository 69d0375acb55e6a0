"""Measurements of moe_numpy, against its matrix multiplications alone and against PyTorch: python -m benchmarks."""
