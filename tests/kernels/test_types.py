"""Every kernel on types that no compiled loop knows: float16 is computed in float32, the others are refused."""

import ml_dtypes
import numpy as np
import pytest
from test_agreement import CASES, run

from moe_numpy import kernels
from moe_numpy.kernels import registry

ALL = [c for cases in CASES.values() for c in cases]
IMPLEMENTATIONS = ["numpy", "numba"]
MOVING = ("add", "reshaped", "scatter", "take_rows", "to_host")  # any type will do
CHANGES = [lambda x: x.astype(x.dtype.newbyteorder(">")), lambda x: x.astype(np.longdouble)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(("name", "build"), [c for c in ALL if not c.id.startswith("adamw")])  # it has float32 masters
def test_narrow_floats_are_computed_with_as_float32(name, build, dtype, implementation):
    found = run(implementation, name, build, dtype, lambda x: x)
    expected = run(
        "numpy", name, lambda rng, _, view: as_float32(build(rng, np.dtype(dtype), view)), dtype, lambda x: x
    )
    for a, e in zip(found, expected, strict=True):
        if not isinstance(e, np.ndarray):
            assert a == pytest.approx(e, rel=1e-2)
            continue
        assert a.dtype in (e.dtype, dtype)
        a, e = a.astype(np.float64), e.astype(np.float64)
        scale = np.abs(e[np.isfinite(e)]).max(initial=0)
        np.testing.assert_allclose(a, e, rtol=1e-2, atol=1e-2 * scale)


def as_float32(value):
    if isinstance(value, list | tuple):
        return type(value)(map(as_float32, value))
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype.kind in "fV" else value


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("change", CHANGES, ids=["swapped bytes", "long double"])
def test_other_types_are_refused_in_one_sentence(name, change, implementation):
    """Whichever of the arguments has one."""
    _, build = CASES[name][0].values
    arguments = list(build(np.random.default_rng(0), np.dtype(np.float32), lambda x: x))
    settings = arguments.pop() if isinstance(arguments[-1], dict) else {}
    for i, x in enumerate(arguments):
        if not isinstance(x, np.ndarray | list) or (isinstance(x, list) and not isinstance(x[0], np.ndarray)):
            continue
        if not isinstance(x, list) and x.dtype == bool:  # of one byte
            continue
        odd = [*x[:-1], change(x[-1])] if isinstance(x, list) else change(x)
        changed = *arguments[:i], odd, *arguments[i + 1 :]
        with kernels.use(implementation):
            if name in MOVING and not (change is CHANGES[1] and x.dtype.kind == "i"):  # indices are no floats
                expected = registry[name](*arguments)
                np.testing.assert_array_equal(registry[name](*changed).astype(expected.dtype), expected)
            elif name not in MOVING:
                with pytest.raises(TypeError, match=rf"^{name}: expected numbers of at most 64 bits"):
                    registry[name](*changed, **settings)
