import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
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


def test_any_thread_can_lower_the_number_of_threads():
    """Also after another one has, which threadpoolctl takes for the only one that may."""

    def lowered():
        with threads.one_thread_products():
            return [library.get_num_threads() for library in threads._limits.libraries]

    ones = [1] * len(threads._limits.libraries)
    assert lowered() == ones
    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lowered).result() == ones
    assert lowered() == ones


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


@pytest.mark.parametrize(
    ("m", "inner", "n"), [(1, 1000, 1000), (1000, 1000, 1), (64, 128, 100), (10, 100, 20), (300, 64, 50), (3, 5, 2)]
)
def test_a_product_is_the_same_with_any_number_of_threads(m, inner, n):
    on_numba = pytest.importorskip("moe_numpy.kernels.on_numba")
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, inner), np.float32), rng.standard_normal((inner, n), np.float32)
    results = []
    for number in (1, 2, 4):
        with threadpool_limits(number, user_api="blas"):
            grouped = on_numba.grouped_product(a, b.T[None], np.array([0, m]))
            stack = on_numba.matmul(np.stack([a, 2 * a]), b)
            results.append((on_numba.product(a, b), grouped, stack, on_numba.matmul(a[0], np.stack([b, b]))))
    for other in results[1:]:
        for one, first in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(one, first)


def test_the_gradient_of_a_stack_times_a_matrix_is_the_same_with_any_number_of_threads():
    rng, found = np.random.default_rng(0), set()
    x, w, upstream = (rng.standard_normal(s, np.float32) for s in ((4, 300, 512), (512, 700), (4, 300, 700)))
    for number in (1, 2, 4):
        with threadpool_limits(number, user_api="blas"), kernels.use("numba"):
            a, b = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
            (a @ b).backward(upstream)
        found.add(a.grad.tobytes() + b.grad.tobytes())
    assert len(found) == 1


class Library:
    """A stand-in for a BLAS library."""

    def __init__(self, threads, filepath):
        self.threads, self.filepath = threads, filepath

    def get_num_threads(self):
        return self.threads

    def set_num_threads(self, threads):
        self.threads = threads


@pytest.fixture
def libraries(monkeypatch):
    found = [Library(3, "scipy.libs/libopenblas.so"), Library(2, "numpy.libs/libopenblas.so")]

    class Controller:
        lib_controllers = found

        def select(self, user_api):
            return self

    monkeypatch.setattr(threads, "ThreadpoolController", Controller)
    monkeypatch.setattr(threads, "_limits", threads._Limits())
    return found


def test_each_library_gets_its_own_number_back(libraries):
    before = [x.threads for x in libraries]
    assert threads.count() == 2
    with threads.one_thread_products():
        assert [x.threads for x in libraries] == [1, 1]
        assert threads.count() == 2
    assert [x.threads for x in libraries] == before


def test_without_a_library_that_can_be_set_all_cores_work(libraries):
    libraries.clear()
    threads._limits.__init__()
    cores = threads.count()
    assert cores >= 1
    with threads.one_thread_products():
        assert threads.count() == cores


def test_a_task_that_runs_tasks(monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: 3)
    done = []
    finished = threading.Thread(
        target=lambda: threads.run(lambda i: threads.run(lambda j: done.append((i, j)), [0, 1, 2]), list(range(20))),
        daemon=True,
    )
    finished.start()
    finished.join(20)
    assert not finished.is_alive()
    assert sorted(done) == [(i, j) for i in range(20) for j in range(3)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_child_forked_inside_its_own_block_leaves_that_block():
    """The thread that forks goes on in the child, so its block ends there; those of other threads do not."""
    code = """
import os, threading
from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
from moe_numpy.kernels import threads
before, limits = threads.count(), threads._limits
inside, forked = threading.Event(), threading.Event()
def other():
    with threads.one_thread_products():
        inside.set()
        forked.wait()
thread = threading.Thread(target=other)
thread.start()
inside.wait()
with threads.one_thread_products():
    with threads.one_thread_products():
        child = os.fork()
        if child == 0:
            depth = limits.depth
    if child == 0:
        one = {x.get_num_threads() for x in limits.libraries} <= {1}
if child == 0:
    print(depth, one, limits.depth, threads.count() == limits.now() == before, flush=True)
    os._exit(0)
os.waitpid(child, 0)
forked.set()
thread.join()
assert limits.depth == 0
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.returncode) == (["2", "True", "0", "True"], 0), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_child_forked_in_the_middle_of_a_product_has_its_threads():
    code = """
import os
from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
from moe_numpy.kernels import threads
before = threads.count()
with threads.one_thread_products():
    threads._limits.lock.acquire()  # as another thread could hold it
    child = os.fork()
    if child == 0:
        with threads.one_thread_products():
            inside = [x.get_num_threads() for x in threads._limits.libraries]
        after = threads.count()
        print(set(inside) <= {1}, after == before, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    threads._limits.lock.release()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "True"], done.stderr
