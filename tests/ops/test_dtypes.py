"""Every Function with a gradient case, on every type of floats and in both byte orders."""

import ml_dtypes
import numpy as np
import pytest

from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
from moe_numpy.gradcheck.cases import all_cases
from moe_numpy.moe.dispatch import STRATEGIES
from moe_numpy.moe.recipes import RECIPES

pytestmark = pytest.mark.no_cover

# The ways to dispatch with some recipes: one for each kind of experts and of choice.
ALL_WAYS = ("mixtral", "gpt_oss", "switch", "expert_choice", "hierarchical", "mixture_of_depths")
ONE_WAY = tuple(f"{name}_{way}" for name in RECIPES for way in STRATEGIES if way != "sorted" and name not in ALL_WAYS)
CASES = {case.name: case for case in all_cases() if case.name not in ONE_WAY}
# Cases with constants of that type.
OF_FLOAT64 = (
    "balance_loss",
    "balance_loss_by_sequence",
    "cast_to_the_same_type",
    "attention_with_padding",
    "attention_from_parts",
    "attention_normed_over_all_heads",
    "attention_normed_after_a_long_rotation",
    "latent_attention",
)


def as_list(outputs):
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def run(case, dtype):
    f, inputs = case.build(np.random.default_rng(0))
    leaves = [Tensor(x.astype(dtype), requires_grad=True) for x in inputs]
    outputs = [y for y in as_list(f(*leaves)) if y.requires_grad]
    for y in outputs:
        y.backward(np.ones_like(y.data), retain_graph=True)
    return outputs, leaves


@pytest.mark.parametrize("implementation", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, ">f4", ">f8"], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_function_runs_on_every_type(name, dtype, implementation):
    with kernels.use(implementation):
        outputs, leaves = run(CASES[name], dtype)
    native = np.dtype(dtype).newbyteorder("=")
    widest = 8 if name in OF_FLOAT64 else max(native.itemsize, 4)
    for y in outputs:
        assert y.dtype.itemsize <= widest
    for x in leaves:
        assert x.dtype == native
        assert x.grad is None or x.grad.dtype == native
