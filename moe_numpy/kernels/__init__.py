"""The hot loops: a plain definition each, and fast implementations of the same name.

- ``kernel.py`` has the decorator ``@kernel``, which chooses what runs.
- ``sorting.py``, ``rows.py``, ``entries.py`` and ``random_numbers.py`` define the kernels without a derivative. The
  other definitions stand above the Functions that use them, in ``ops/`` and ``moe/``.
- ``on_numba.py`` runs on all cores of a CPU: compiled loops (``loops.py``), matrix multiplications side by side
  (``threads.py``), recycled memory (``workspace.py``). Weights in the formats of ``formats/`` are multiplied by
  ``product_loops.py``, made of ``decoders.py``, ``row_products.py`` and ``vectors.py``. ``program_loops.py`` walks a
  whole model for some rows, on threads (``crew.py``) that wait for one another in compiled code (``atomics.py``).
- ``on_cupy.py`` runs on a GPU.

What ``on_numba`` computes has the same bits with any number of threads. The definitions leave matrix multiplications to
BLAS, whose last bits can depend on its number of threads.

``with kernels.use("numpy"):`` forces the definitions; the environment variable ``MOE_NUMPY_KERNELS=numpy`` does so for
a whole process.
"""

from .compiling import compiled_loops_in, must_compile, programs
from .entries import add, reshaped
from .kernel import asked_for_cpu, in_use, kernel, library_of, registry, substitute, use
from .random_numbers import uniforms
from .rows import add_along_rows, add_rows, max_by_key, scatter, sum_by_key, take_rows, to_host, where_true
from .sorting import count, offsets_of, position_by_key, sort_by_key, stable_order, tokens_and_ranks, top_k

__all__ = [
    "add",
    "add_along_rows",
    "add_rows",
    "asked_for_cpu",
    "compiled_loops_in",
    "count",
    "in_use",
    "kernel",
    "library_of",
    "max_by_key",
    "must_compile",
    "offsets_of",
    "position_by_key",
    "programs",
    "registry",
    "reshaped",
    "scatter",
    "sort_by_key",
    "stable_order",
    "substitute",
    "sum_by_key",
    "take_rows",
    "to_host",
    "tokens_and_ranks",
    "top_k",
    "uniforms",
    "use",
    "where_true",
]
