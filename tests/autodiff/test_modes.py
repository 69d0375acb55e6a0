"""no_grad and check_finite belong to one thread."""

import asyncio
import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from moe_numpy.autodiff import Function, NonFiniteError, Tensor, check_finite, no_grad
from moe_numpy.autodiff.modes import modes


class Scale(Function):
    def forward(self, x):
        return 2 * x

    def backward(self, grad):
        return 2 * grad


def leaf():
    return Tensor(np.ones(1), requires_grad=True)


def in_another_thread(action):
    result = []
    thread = threading.Thread(target=lambda: result.append(action()), name="loader")
    thread.start()
    thread.join()
    return result[0]


def test_no_grad_records_nothing():
    with no_grad():
        y = Scale.apply(leaf())
    assert y.function is None
    with pytest.raises(RuntimeError, match=r"Scale made it inside no_grad\(\) in thread 'MainThread'"):
        y.backward()


def test_no_grad_ends_with_the_block_even_on_an_error():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert modes.record_graph
    assert Scale.apply(leaf()).requires_grad


def test_no_grad_nested():
    with no_grad():
        with no_grad():
            pass
        assert not Scale.apply(leaf()).requires_grad


def test_no_grad_as_decorator():
    @no_grad()
    def evaluate():
        return Scale.apply(leaf())

    assert not evaluate().requires_grad
    assert not evaluate().requires_grad
    assert modes.record_graph


def test_no_grad_leaves_other_threads_alone():
    with no_grad():
        assert in_another_thread(lambda: Scale.apply(leaf()).requires_grad)


def test_backward_on_a_result_of_another_threads_no_grad_names_the_thread():
    def work():
        with no_grad():
            return Scale.apply(leaf())

    y = in_another_thread(work)
    with pytest.raises(RuntimeError, match=r"inside no_grad\(\) in thread 'loader'; run the forward pass outside"):
        y.backward()
    assert Scale.apply(leaf()).requires_grad


def test_check_finite_leaves_other_threads_alone_and_ends():
    infinite = Tensor(np.array([np.inf]))
    with check_finite():
        with pytest.raises(NonFiniteError):
            Scale.apply(infinite)
        assert np.isinf(in_another_thread(lambda: Scale.apply(infinite).item()))
    assert np.isinf(Scale.apply(infinite).item())


def recorded():
    return Scale.apply(leaf()).requires_grad


def test_no_grad_in_a_generator_does_not_leak_into_the_caller():
    def batches():
        with no_grad():
            yield recorded()
            yield recorded()

    seen = [(inside, recorded()) for inside in batches()]
    assert seen == [(False, True)] * 2
    assert recorded()


def test_a_generator_that_is_dropped_or_outlives_another_leaves_nothing_behind():
    def inside():
        with no_grad():
            yield recorded()

    first, second = inside(), inside()
    assert not next(first)
    assert not next(second)
    first.close()
    assert recorded()
    del second
    assert recorded()
    assert modes.no_grad_blocks.open == []


def test_a_suspended_generator_does_not_end_the_callers_block():
    def inside():
        with no_grad():
            yield

    with no_grad():
        generator = inside()
        next(generator)
    assert recorded()
    next(generator, None)
    assert recorded()


def test_what_a_generator_calls_is_inside_its_block():
    def inside():
        with no_grad():
            yield (lambda: recorded())()
            yield from inner()

    def inner():
        yield recorded()

    assert list(inside()) == [False, False]


def test_no_grad_as_decorator_of_a_generator():
    @no_grad()
    def evaluate(n):
        got = yield recorded()
        for _ in range(n):
            got = yield got, recorded()
        return "done"

    def caller():
        result = yield from evaluate(1)
        yield result, recorded()

    generator = caller()
    assert next(generator) is False
    assert recorded()
    assert generator.send("sent") == ("sent", False)
    assert recorded()
    assert next(generator) == ("done", True)


def test_a_generator_that_is_a_context_manager_is_for_its_caller():
    @contextmanager
    def inference():
        with no_grad():
            yield

    with inference():
        assert not recorded()
    assert recorded()

    def inside():
        with inference():
            yield recorded()

    assert [(x, recorded()) for x in inside()] == [(False, True)]
    with ExitStack() as stack:
        stack.enter_context(no_grad())
        assert not recorded()
    assert recorded()


def test_no_grad_across_await_holds_for_its_own_task_only():
    async def without():
        with no_grad():
            await asyncio.sleep(0)
            return recorded()

    async def both():
        async def plain():
            return recorded()

        return await asyncio.gather(without(), plain())

    assert asyncio.run(both()) == [False, True]


def test_an_asynchronous_function_is_not_decorated():
    with pytest.raises(TypeError, match="is asynchronous: open the block inside it"):

        @no_grad()
        async def evaluate():
            pass


def test_check_finite_in_a_generator_does_not_leak_into_the_caller():
    def inside():
        with check_finite():
            yield

    generator = inside()
    next(generator)
    assert np.isinf(Scale.apply(Tensor(np.array([np.inf]))).item())
