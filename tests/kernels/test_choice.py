"""Which kernels an array gets."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from moe_numpy import kernels
from moe_numpy.kernels import top_k
from moe_numpy.kernels.kernel import Kernel, implementation
from moe_numpy.ops.activations import softmax

ASKED = {"MOE_NUMPY_KERNELS": "numba"}


class Foreign:
    shape, dtype = (1,), np.dtype(np.float32)


def test_numpy_arrays_get_the_compiled_kernels():
    pytest.importorskip("numba")
    assert implementation("softmax", (np.zeros(1), np.zeros(2))).__module__ == "moe_numpy.kernels.on_numba"


def test_what_is_not_compiled_gets_its_definition():
    assert implementation("count", (np.zeros(1, int), 3)) is kernels.count.definition


@pytest.mark.parametrize("narrow", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_are_computed_with_as_float32_and_rounded_once(narrow):
    x = np.linspace(-3, 3, 10).astype(narrow).reshape(2, 5)
    y = softmax(x)
    assert y.dtype == narrow
    np.testing.assert_array_equal(y, softmax.definition(x.astype(np.float32)).astype(narrow))


def test_narrow_floats_that_are_only_moved_stay_as_they_are():
    x = np.ones(3, ml_dtypes.bfloat16)
    assert kernels.to_host(x) is x


def test_use_forces_an_implementation_and_ends():
    before = implementation("softmax", (np.zeros(1),))
    with kernels.use("numpy"):
        assert implementation("softmax", (np.zeros(1),)) is softmax.definition
        assert kernels.in_use() == "numpy"
    assert implementation("softmax", (np.zeros(1),)) is before


def test_a_substitute_runs_until_its_block_ends():
    x = np.zeros((2, 3))
    with kernels.substitute("top_k", lambda scores, k: "mine"):
        with kernels.substitute("top_k", lambda scores, k: "yours"):
            assert top_k(x, 1) == "yours"
        assert top_k(x, 1) == "mine"
    assert top_k(x, 1).tolist() == [[0], [0]]


def test_a_kernel_looks_like_its_definition():
    assert softmax.__doc__ == softmax.definition.__doc__
    assert softmax.__name__ == "softmax"
    assert isinstance(softmax, Kernel)


def test_use_refuses_an_unknown_name():
    with (
        pytest.raises(ValueError, match="kernels must be one of numpy, numba, got 'fortran'"),
        kernels.use("fortran"),
    ):
        pass


@pytest.mark.parametrize("arrays", [(np.zeros(1), Foreign()), (Foreign(), np.zeros(1)), (Foreign(),), ([Foreign()],)])
def test_a_library_without_kernels_and_a_mix_are_refused(arrays):
    with pytest.raises(TypeError, match=r"no kernels for .*; expected arrays of numpy, or of cupy, not both"):
        implementation("softmax", arrays)


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
        "kernels.in_use(); print(before, 'numba' in sys.modules)"
    )
    assert loaded.split() == ["False", "True"]


def test_without_numba_the_definition_serves():
    served = python(
        "import sys; sys.modules['numba'] = None; import importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'numba' else find(name, *a);"
        "from moe_numpy import kernels; print(kernels.in_use())"
    )
    assert served.strip() == "numpy"


def test_a_numba_that_cannot_be_imported_is_reported_once_and_the_definition_serves(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    code = """
import warnings, numpy
from moe_numpy import kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(*{kernels.in_use() for _ in range(2)})
print(*(warning.message for warning in caught))
"""
    assert python(code, PYTHONPATH=path).splitlines() == [
        "numpy",
        "numba cannot be imported, so the kernels run as plain NumPy: Numba needs NumPy 1.0 or less",
    ]
    with pytest.raises(AssertionError, match="Numba needs NumPy"):
        python("from moe_numpy import kernels; kernels.in_use()", PYTHONPATH=path, **ASKED)


def test_loops_are_compiled_where_nothing_can_be_kept(monkeypatch):
    loops = pytest.importorskip("moe_numpy.kernels.loops")

    def no_folder(loop):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(loops, "KeptLoop", no_folder)

    def double(x):
        return 2 * x

    assert loops._compiler()(double)(3) == 6


def test_the_loops_run_uncompiled():
    pytest.importorskip("numba")
    printed = python(
        "import numpy as np; from moe_numpy.kernels import loops, top_k;"
        "from moe_numpy.ops.activations import softmax; from moe_numpy.ops.normalization import rms_norm;"
        "rng = np.random.default_rng(0); x = rng.standard_normal((5, 4));"
        "np.testing.assert_allclose(softmax(x), softmax.definition(x));"
        "np.testing.assert_array_equal(top_k(x, 2), top_k.definition(x, 2));"
        "np.testing.assert_allclose(rms_norm(x, x[0], 1e-6)[0], rms_norm.definition(x, x[0], 1e-6)[0]);"
        "print(type(loops.top_k).__name__)",
        NUMBA_DISABLE_JIT="1",
    )
    assert printed.strip() == "function"


def test_a_machine_that_never_ran_the_loops_has_to_compile_them_once(tmp_path):
    pytest.importorskip("numba")
    code = """
import numpy as np
from moe_numpy import kernels
from moe_numpy.training.optimizers import adamw
print(kernels.must_compile())
one = [np.ones(3, np.float32)]
adamw(one, one, one, one, [0.0], [None], np.array([1.0, 0.1, 1.0, 1.0]), betas=(0.9, 0.9), eps=1.0)
print(kernels.must_compile(), kernels.must_compile("program_loops.lead"))
"""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "MOE_NUMPY_KERNELS": "numba", "NUMBA_DISABLE_JIT": "0"}
    assert python(code, **environment).split() == ["True", "False", "True"]
    assert python(code, **environment).split() == ["False", "False", "True"]
    for file in tmp_path.rglob("*.nbi"):  # as if loops.py had changed since
        os.utime(file, (0, 0))
    assert python("from moe_numpy import kernels; print(kernels.must_compile())", **environment).strip() == "True"
