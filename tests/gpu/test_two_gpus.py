"""Two ranks with a GPU each against one GPU and against NumPy: exchanges, layers, training, a rank that dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from on_two_gpus import COUNTS, DTYPES, SEQUENCES, WIDTHS, layer_of, rows_of, step, summands

from moe_numpy.autodiff.arrays import to_host
from moe_numpy.commands.starting_ranks import mpiexec
from moe_numpy.moe import recipes
from moe_numpy.parallel.launching import run_ranks
from moe_numpy.parallel.mpi import ParallelError
from moe_numpy.training import Run

ROOT = Path(__file__).parents[2]


def num_gpus():
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount()
    except Exception:  # no CuPy, or no driver
        return 0


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(num_gpus() < 2, reason="needs two GPUs")]


def environment():
    before = os.environ.get("PYTHONPATH")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # in a container
    return os.environ | as_root | {"PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])])}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank found."""
    folder = tmp_path_factory.mktemp("found")
    end = run_ranks([sys.executable, str(Path(__file__).with_name("on_two_gpus.py")), str(folder)], 2, environment())
    assert (end.code, end.failure) == (0, None)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in (0, 1)]


def cut(rows, sizes):
    return np.split(rows, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["exchange", "begin", "host"])
def test_every_row_arrives_where_it_is_wanted(found, way, dtype, width):
    for rank in (0, 1):
        expected = np.concatenate([cut(rows_of(r, width, dtype), COUNTS[r])[rank] for r in (0, 1)])
        name = f"exchanges: {way} {dtype} {width}"
        np.testing.assert_array_equal(found[rank][name], expected.astype(np.float64))


def test_nothing_is_exchanged_too(found):
    assert [of_rank["exchanges: nothing"].shape for of_rank in found] == [(0, 4)] * 2


def test_sums_and_gathered_rows_are_those_of_numpy(found):
    first, second = summands(0), summands(1)
    for of_rank in found:
        for i in (0, 1):
            for name in (f"collectives: sum {i}", f"collectives: sum on the host {i}"):
                np.testing.assert_array_equal(of_rank[name], first[i] + second[i])
        np.testing.assert_array_equal(of_rank["collectives: gather"], np.concatenate([first[0], second[0]]))


def test_rows_travel_while_the_gpu_computes(found):
    for rank, of_rank in enumerate(found):
        assert of_rank["overlapped: come"].tolist() == [1, 2]
        assert of_rank["overlapped: again"] == 2
        assert of_rank["overlapped: product"] == 1024 * (rank + 1) ** 2


def relative(a, b):
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)


def require_as_one(found, part, recipe, tolerance, dtype="float32", device="cuda"):
    """That answers and gradients on two ranks are those of one process with all sequences."""
    layer = layer_of(recipe, dtype).to(device)
    y, dx, gradients = step(layer, device)
    for name, value in (("y", y), ("dx", dx)):
        expected = to_host(value).astype(np.float64)
        for rank, own in enumerate(SEQUENCES):
            assert relative(found[rank][f"{part}: {recipe}/{name}"], expected[own]) < tolerance, name
    for name, value in gradients.items():
        expected = to_host(value).astype(np.float64)
        for of_rank in found:
            assert relative(of_rank[f"{part}: {recipe}/{name}"], expected) < tolerance, name


@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES))
def test_a_layer_on_two_gpus_is_that_on_one(found, recipe):
    require_as_one(found, "layers", recipe, 1e-5)


@pytest.mark.parametrize("recipe", ["mixtral", "deepseek_v3"])
def test_so_it_is_in_bfloat16(found, recipe):
    require_as_one(found, "bfloat16", recipe, 2e-2, "bfloat16")


WORDS = "the cat sat on the mat and the dog did not see what the cat had seen before it sat there again "
SIZES = [
    "--d-model", "64", "--num-layers", "2", "--d-ff", "64", "--context", "32", "--batch-size", "6", "--device", "cuda",
    "--text", "words.txt", "--json",
]  # fmt: skip


def command(*arguments):
    return [sys.executable, "-m", "moe_numpy", "train", *map(str, arguments)]


def train(folder, *arguments, program=()):
    """Run the command; standard output."""
    (folder / "words.txt").write_text(WORDS * 40)
    line = [*program, *command(*arguments)]
    done = subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    out = done.stdout  # Open MPI puts colours around it
    return json.loads(out[out.index("{") : out.rindex("}") + 1])


def history(folder):
    keys = ("step", "loss", "auxiliary_loss", "gradient_norm", "expert_load")
    return [[row[key] for key in keys] for row in Run.open(folder).history()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training on one GPU and on two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, num_ranks in (("one", 1), ("two", 2)):
        of_run = ("--steps", 6, "--checkpoint-every", 3, "--out", name)
        train(folder, *SIZES, *of_run, "--ranks", num_ranks)
    return folder


def test_the_losses_of_a_run_are_those_on_one_gpu(runs):
    one, two = history(runs / "one"), history(runs / "two")
    for a, b in zip(one, two, strict=True):
        assert a[-1] == b[-1]  # every token goes to the same experts
        np.testing.assert_allclose(b[:-1], a[:-1], rtol=1e-5)
    summaries = [Run.open(runs / name).summary() for name in ("one", "two")]
    assert summaries[1]["val_loss"] == pytest.approx(summaries[0]["val_loss"], rel=1e-5)


def test_a_run_on_two_gpus_is_resumed_bit_for_bit(runs):
    shutil.copytree(runs / "two", runs / "resumed")
    before = history(runs / "two")
    train(runs, "--resume", "--from-step", 3, "--out", "resumed", "--ranks", 2, "--json")
    assert history(runs / "resumed") == before


def test_a_run_on_two_gpus_is_resumed_on_one(runs):
    shutil.copytree(runs / "two", runs / "alone")
    train(runs, "--resume", "--from-step", 3, "--out", "alone", "--json")
    for a, b in zip(history(runs / "two"), history(runs / "alone"), strict=True):
        np.testing.assert_allclose(b[:-1], a[:-1], rtol=1e-5)


def test_processes_of_mpiexec_are_connected_by_nccl(runs):
    pytest.importorskip("mpi4py")  # which alone starts nothing
    try:
        program = mpiexec()
    except ParallelError as error:
        pytest.skip(str(error))
    train(runs, *SIZES, "--steps", 6, "--checkpoint-every", 3, "--out", "by_mpi", program=(program, "-n", "2"))
    assert history(runs / "by_mpi") == history(runs / "two")


def pid_of_rank(rank, starter):
    """The process of a rank, by its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"PPid:\t{starter}\n" in (folder / "status").read_text():
                names = (folder / "environ").read_bytes().split(b"\0")
                if f"MOE_NUMPY_RANK={rank}".encode() in names:
                    return int(folder.name)
        except OSError:  # it has ended
            continue
    return None


def has_checkpoint(folder):
    try:
        return Run.open(folder).newest_step() is not None
    except (OSError, ValueError):  # it is just being made
        return False


@pytest.fixture
def endless(tmp_path):
    """A run on two GPUs that has a checkpoint, and goes on."""
    (tmp_path / "words.txt").write_text(WORDS * 40)
    of_run = ("--steps", 10**6, "--checkpoint-every", 2, "--out", "run", "--ranks", 2)
    line = command(*SIZES, *of_run)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=tmp_path, env=environment(), **pipes) as process:
        end = time.monotonic() + 120
        while not has_checkpoint(tmp_path / "run"):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield process
        process.kill()


def require_a_checkpoint(folder):
    run = Run.open(folder)
    run.verified(run.newest_step())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_and_the_checkpoint_stays(endless, rank, tmp_path):
    pids = [pid_of_rank(r, endless.pid) for r in (0, 1)]
    os.kill(pids[rank], signal.SIGKILL)
    _, errors = endless.communicate(timeout=60)
    assert endless.returncode == 137
    assert f"error: rank {rank} was ended by SIGKILL; the other ranks were ended too" in errors.splitlines()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    require_a_checkpoint(tmp_path / "run")


def test_a_signal_ends_all_ranks_after_a_checkpoint(endless, tmp_path):
    endless.send_signal(signal.SIGTERM)
    _, errors = endless.communicate(timeout=60)
    assert endless.returncode == 143, errors
    run = Run.open(tmp_path / "run")
    assert run.newest_step() == len(run.history())


def test_more_ranks_than_gpus_are_refused(tmp_path):
    line = command(*SIZES[:-3], "--batch-size", 1000, "--ranks", 1000)
    done = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "each rank needs a GPU of its own: 1000 ranks" in done.stderr
