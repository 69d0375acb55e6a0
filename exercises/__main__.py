"""``python -m exercises``."""

import os

os.environ.setdefault("MOE_NUMPY_KERNELS", "numpy")  # the readable kernels, and no second for importing numba

from .cli import app

if __name__ == "__main__":
    app(prog_name="python -m exercises")
