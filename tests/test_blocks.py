"""Blocks inside generators: in force while the generator runs, and only then."""

import threading

import numpy as np
import pytest

from moe_numpy import kernels
from moe_numpy.autodiff import Tensor, check_finite, decisions, no_grad
from moe_numpy.blocks import Block, Blocks
from moe_numpy.kernels.kernel import in_use
from moe_numpy.ops import Exp, Max

OTHER = {"numpy": "numba", "numba": "numpy"}


def test_kernels_in_a_suspended_generator_do_not_leak():
    before = in_use()

    def inside():
        with kernels.use(OTHER[before]):
            yield in_use()
            yield in_use()

    generator = inside()
    assert (next(generator), in_use(), next(generator), in_use()) == (OTHER[before], before, OTHER[before], before)


def test_kernels_in_a_suspended_generator_leave_the_callers_choice_alone():
    def inside():
        with kernels.use("numba"):
            yield in_use()

    with kernels.use("numpy"):
        generator = inside()
        assert (next(generator), in_use()) == ("numba", "numpy")
    assert next(generator, None) is None


def test_kernels_as_decorator():
    @kernels.use("numpy")
    def plain():
        return in_use()

    @kernels.use("numpy")
    def lazy():
        yield in_use()

    assert plain() == "numpy"
    assert list(lazy()) == ["numpy"]


def test_an_unknown_name_is_refused_at_once():
    with pytest.raises(ValueError, match="kernels must be one of numpy, numba, got 'jax'"):
        kernels.use("jax")


def test_recording_in_a_suspended_generator_does_not_leak():
    x = Tensor(np.arange(3.0))

    def inside():
        with decisions.recording() as made:
            Max.apply(x)
            yield made
            Max.apply(x)
            yield made

    with decisions.recording() as outside:
        generator = inside()
        made = next(generator)
        Max.apply(x)
        assert (len(made), len(outside)) == (1, 1)
        next(generator)
        assert (len(made), len(outside)) == (2, 1)
    Max.apply(x)
    assert len(made) == 2


@pytest.fixture
def plain_kernels():
    with kernels.use("numpy"), no_grad():
        yield


def test_a_fixture_opens_a_block_for_the_test(plain_kernels):
    assert in_use() == "numpy"
    assert not Exp.apply(Tensor(np.ones(1), requires_grad=True)).requires_grad


def test_a_generator_closed_in_another_thread_leaves_nothing_behind():
    blocks = Blocks()

    def inside():
        with Block(blocks):
            yield

    generator = inside()
    next(generator)
    assert len(blocks.open) == 1
    thread = threading.Thread(target=generator.close)
    thread.start()
    thread.join()
    assert blocks.open == []
    assert blocks.innermost() is None


def test_blocks_belong_to_a_thread():
    found = []
    with kernels.use("numpy"), decisions.recording() as made, check_finite():
        thread = threading.Thread(target=lambda: found.append((in_use(), Max.apply(Tensor(np.array([np.inf]))).item())))
        thread.start()
        thread.join()
    assert found == [(in_use(), np.inf)]
    assert made == []
