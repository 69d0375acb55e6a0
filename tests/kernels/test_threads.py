import threading

import numpy as np
import pytest

from moe_numpy.kernels import threads


@pytest.fixture(params=[1, 3])
def num_threads(request, monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: request.param)
    return request.param


@pytest.mark.parametrize("n", [0, 1, 4, 5, 9])
def test_blocks_cover_everything_once(n):
    assert [i for s in threads.blocks(n, 4) for i in range(n)[s]] == list(range(n))


@pytest.mark.parametrize("items", [0, 1, 2, 100])
def test_every_item_is_done_once(items, num_threads):
    done = []
    threads.run(done.append, list(range(items)))
    assert sorted(done) == list(range(items))


def test_several_threads_work(monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: 2)
    together = threading.Barrier(2, timeout=10)
    threads.run(lambda _: together.wait(), [0, 1])  # a single thread would wait in vain


def test_an_error_comes_through(num_threads):
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda i: 1 // i, [1, 2, 0, 3])


def test_settings_of_the_caller_hold_in_every_thread(num_threads):
    def overflow(_):
        np.array([1e300]) * 1e300

    with np.errstate(over="ignore"):
        threads.run(overflow, list(range(20)))


def test_products_get_their_threads_back():
    if not threads._limits.libraries:
        pytest.skip("no BLAS whose threads can be set")
    blas = threads._limits.libraries[0]
    before = blas.get_num_threads()
    with threads.one_thread_products():
        with threads.one_thread_products():
            assert blas.get_num_threads() == 1
        assert blas.get_num_threads() == 1
        assert threads.count() == before
    assert blas.get_num_threads() == before == threads.count()


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    on_numba = pytest.importorskip("moe_numpy.kernels.on_numba")
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((900, 128), (128, 300)))
    results = []
    for n in (1, 2, 3):
        monkeypatch.setattr(threads, "count", lambda n=n: n)
        dx, dw = on_numba.rms_norm_gradient(x, x, x[:, :1], x[0])
        results.append((on_numba.product(x, w), dx, dw, on_numba.sum_of_squares([x])))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
