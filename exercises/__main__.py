"""``python -m exercises``."""

import os

os.environ.setdefault("MOE_NUMPY_KERNELS", "numpy")  # the readable kernels, and no second for importing numba

from moe_numpy.commands.usage import exit_on_signals

from .cli import app
from .terminal import spell_out_symbols

if __name__ == "__main__":
    spell_out_symbols()
    exit_on_signals()
    app(prog_name="python -m exercises")
