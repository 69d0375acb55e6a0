"""``python -m exercises``."""

import os

os.environ.setdefault("MOE_NUMPY_KERNELS", "numpy")  # the readable kernels, and no second for importing numba

from .cli import app
from .terminal import spell_out_symbols

if __name__ == "__main__":
    spell_out_symbols()
    app(prog_name="python -m exercises")
