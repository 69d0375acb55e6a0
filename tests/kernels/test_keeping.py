"""Files of compiled loops that are damaged, or cannot be written: the loop is compiled again."""

import importlib.util
import os
import shutil

import pytest

numba = pytest.importorskip("numba")

loops = pytest.importorskip("moe_numpy.kernels.loops")
KeptLoop = pytest.importorskip("moe_numpy.kernels.keeping").KeptLoop
pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")


@pytest.fixture
def compile_double(tmp_path, monkeypatch):
    """Gives the same loop as if in a new process each time: nothing is in memory."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    source = tmp_path / "one_loop.py"
    source.write_text("def double(x):\n    return 2 * x\n\ndef treble(x):\n    return 3 * x\n")

    def compile_(name="double"):
        spec = importlib.util.spec_from_file_location("one_loop", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loop = numba.njit(getattr(module, name))
        loop._cache = KeptLoop(loop.py_func)
        return loop

    return compile_


def hits(loop):
    """Of a call with a float: 1 if the compiled loop was read from its files."""
    assert loop(1.5) == 3
    return sum(loop.stats.cache_hits.values())


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "the last byte is missing": lambda data: data[:-1],
    "garbage": lambda data: b"hello\n",
    "zeros": lambda data: bytes(len(data)),
    "a bit of code": lambda data: flip(data, len(data) * 2 // 3),
    "a bit of the checksum": lambda data: flip(data, len(data) - 1),
    "more behind it": lambda data: data + b"0",
}


def test_the_packages_loops_are_kept_so():
    assert isinstance(loops.top_k._cache, KeptLoop)


def test_a_loop_made_of_other_files_is_out_of_date_when_they_change(compile_double, tmp_path):
    part = tmp_path / "part.py"
    part.write_text("")
    spec = importlib.util.spec_from_file_location("part", part)
    made_of = (importlib.util.module_from_spec(spec),)

    def kept():
        loop = compile_double()
        loop.py_func.__globals__["MADE_OF"] = made_of
        loop._cache = KeptLoop(loop.py_func)
        return loop

    assert hits(kept()) == 0
    assert hits(kept()) == 1
    part.write_text("# changed")
    assert hits(kept()) == 0


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_means_compiling_again(compile_double, tmp_path, damage, suffix):
    assert [hits(compile_double()) for _ in range(2)] == [0, 1]
    (file,) = tmp_path.rglob(f"*{suffix}")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert [hits(compile_double()) for _ in range(2)] == [0, 1]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_folder_in_the_place_of_a_file(compile_double, tmp_path, suffix):
    hits(compile_double())
    (file,) = tmp_path.rglob(f"*{suffix}")
    file.unlink()
    file.mkdir()
    assert hits(compile_double()) == 0


def test_the_files_of_another_loop(compile_double, tmp_path):
    hits(compile_double())
    compile_double("treble")(1.5)
    for suffix in (".nbi", ".nbc"):
        double, treble = sorted(tmp_path.rglob(f"*{suffix}"))
        shutil.copy(treble, double)
    assert hits(compile_double()) == 0


def test_a_full_disk(compile_double, tmp_path, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert [hits(compile_double()) for _ in range(2)] == [0, 0]
    assert [path for path in tmp_path.rglob("*") if ".nb" in path.name] == []


def test_a_folder_that_became_a_file(compile_double, tmp_path):
    loop = compile_double()
    folder = tmp_path / "__pycache__"
    shutil.rmtree(folder)
    folder.write_text("")
    assert hits(loop) == 0
