"""Which kernels an array gets."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from moe_numpy import kernels
from moe_numpy.kernels import on_numpy

ASKED = {"MOE_NUMPY_KERNELS": "numba"}


class Foreign:
    shape, dtype = (1,), np.dtype(np.float32)


def test_numpy_arrays_get_the_compiled_kernels():
    pytest.importorskip("numba")
    assert kernels.of(np.zeros(1), np.zeros(2)).__name__ == "moe_numpy.kernels.on_numba"


def test_float16_gets_the_definition():
    assert kernels.of(np.zeros(1, np.float32), np.zeros(1, np.float16)) is on_numpy


def test_bfloat16_gets_the_definition():
    assert kernels.of(np.zeros(1, ml_dtypes.bfloat16)) is on_numpy


def test_use_forces_an_implementation_and_ends():
    before = kernels.of(np.zeros(1))
    with kernels.use("numpy"):
        assert kernels.of(np.zeros(1)) is on_numpy
    assert kernels.of(np.zeros(1)) is before


def test_use_refuses_an_unknown_name():
    with (
        pytest.raises(ValueError, match="kernels must be one of numpy, numba, got 'fortran'"),
        kernels.use("fortran"),
    ):
        pass


@pytest.mark.parametrize("arrays", [([1.0],), (np.zeros(1), Foreign()), (Foreign(),)])
def test_a_library_without_kernels_and_a_mix_are_refused(arrays):
    with pytest.raises(TypeError, match=r"no kernels for .*; expected arrays of numpy, or of cupy, not both"):
        kernels.of(*arrays)


def python(code, **environment):
    """Run a fresh interpreter; its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numba_is_imported_on_first_use():
    pytest.importorskip("numba")
    loaded = python(
        "import sys, numpy, moe_numpy.models; from moe_numpy import kernels; before = 'numba' in sys.modules;"
        "kernels.of(numpy.zeros(1)); print(before, 'numba' in sys.modules)"
    )
    assert loaded.split() == ["False", "True"]


def test_without_numba_the_definition_serves():
    served = python(
        "import sys; sys.modules['numba'] = None; import importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'numba' else find(name, *a);"
        "import numpy; from moe_numpy import kernels; print(kernels.of(numpy.zeros(1)).__name__)"
    )
    assert served.strip() == "moe_numpy.kernels.on_numpy"


def test_a_numba_that_cannot_be_imported_is_said_once_and_the_definition_serves(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    code = """
import warnings, numpy
from moe_numpy import kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(*{kernels.of(numpy.zeros(1)).__name__ for _ in range(2)})
print(*(warning.message for warning in caught))
"""
    assert python(code, PYTHONPATH=path).splitlines() == [
        "moe_numpy.kernels.on_numpy",
        "numba cannot be imported, so the kernels run as plain NumPy: Numba needs NumPy 1.0 or less",
    ]
    with pytest.raises(AssertionError, match="Numba needs NumPy"):
        python("import numpy; from moe_numpy import kernels; kernels.of(numpy.zeros(1))", PYTHONPATH=path, **ASKED)


def test_loops_are_compiled_where_nothing_can_be_kept(monkeypatch):
    loops = pytest.importorskip("moe_numpy.kernels.loops")
    asked = []

    def njit(cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda loop: loop

    monkeypatch.setattr(loops, "njit", njit)
    assert loops._compiler()(len) is len
    assert asked == [True, False]


def test_the_loops_run_uncompiled():
    pytest.importorskip("numba")
    printed = python(
        "import numpy as np; from moe_numpy import kernels; from moe_numpy.kernels import on_numpy, loops;"
        "k = kernels.of(np.zeros(1)); rng = np.random.default_rng(0); x = rng.standard_normal((5, 4));"
        "np.testing.assert_allclose(k.softmax(x), on_numpy.softmax(x));"
        "np.testing.assert_array_equal(k.top_k(x, 2), on_numpy.top_k(x, 2));"
        "np.testing.assert_allclose(k.rms_norm(x, x[0], 1e-6)[0], on_numpy.rms_norm(x, x[0], 1e-6)[0]);"
        "print(type(loops.top_k).__name__)",
        NUMBA_DISABLE_JIT="1",
    )
    assert printed.strip() == "function"


def test_a_machine_that_never_ran_the_loops_has_to_compile_them_once(tmp_path):
    pytest.importorskip("numba")
    code = """
import numpy as np
from moe_numpy import kernels
print(kernels.must_compile())
one = [np.ones(3, np.float32)]
settings = {"gradient_scale": 1.0, "betas": (0.9, 0.9), "corrections": (1.0, 1.0), "lr": 0.1, "eps": 1.0}
kernels.of(one[0]).adamw(one, one, one, one, [1.0], **settings)
print(kernels.must_compile())
"""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "MOE_NUMPY_KERNELS": "numba", "NUMBA_DISABLE_JIT": "0"}
    assert python(code, **environment).split() == ["True", "False"]
    assert python(code, **environment).split() == ["False", "False"]
    for file in tmp_path.rglob("*.nbi"):  # as if loops.py had changed since
        os.utime(file, (0, 0))
    assert python("from moe_numpy import kernels; print(kernels.must_compile())", **environment).strip() == "True"
