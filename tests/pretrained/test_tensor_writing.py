import json
import os
import signal
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from folders import contents, header_of, sharded, single, some_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from moe_numpy.formats import bfloat16
from moe_numpy.pretrained import PretrainedError, TensorFiles, write_tensor_files

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BF16 = np.dtype(ml_dtypes.bfloat16)
types = st.sampled_from(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ">f4", ">i8"])
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name != "__metadata__")
some_arrays = types.flatmap(lambda t: arrays(t, array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4)))


@settings(max_examples=60)
@given(st.dictionaries(names, some_arrays, max_size=6), st.sampled_from([1, 16, 100, 5e9]))
def test_any_arrays_come_back(tmp_path_factory, tensors, max_shard_bytes):
    folder = tmp_path_factory.mktemp("model")
    write_tensor_files(folder, tensors.items(), max_shard_bytes=max_shard_bytes)
    files = TensorFiles.open(folder)
    assert set(files) == set(tensors)
    for name, array in tensors.items():
        assert np.array_equal(files[name].raw, array, equal_nan=array.dtype.kind == "f")
        assert files[name].raw.dtype == array.dtype.newbyteorder("<")
        assert files[name].raw.flags.aligned


@pytest.mark.parametrize("layout", [single, sharded])
def test_the_safetensors_library_reads_the_same(tmp_path, layout):
    tensors = {name: array for name, array in some_tensors().items() if array.dtype.name != "float8_e4m3fn"}
    folder = layout(tmp_path)
    found = {}
    for path in folder.glob("*.safetensors"):
        with safetensors.safe_open(path, framework="np") as file:
            assert file.metadata() == {"format": "pt"}
            found |= {name: (path.name, file.get_tensor(name)) for name in file.keys() if name in tensors}  # noqa: SIM118
    assert set(found) == set(tensors)
    for name, (_, array) in found.items():
        assert array.dtype == tensors[name].dtype
        assert array.tobytes() == tensors[name].tobytes()
    if layout is sharded:
        index = json.loads((folder / INDEX).read_bytes())
        assert {name: index["weight_map"][name] for name in found} == {name: file for name, (file, _) in found.items()}
        assert index["metadata"] == {"total_size": sum(a.nbytes for a in some_tensors().values())}


def test_what_the_safetensors_library_writes_is_read(tmp_path):
    tensors = {name: array for name, array in some_tensors().items() if array.dtype.name != "float8_e4m3fn"}
    safetensors.numpy.save_file(tensors, tmp_path / ONE)
    assert {n: v[2] for n, v in contents(tmp_path).items()} == {n: array.tobytes() for n, array in tensors.items()}


def test_shards_hold_at_most_what_they_may(tmp_path):
    tensors = [(f"layers.{i}", np.full(25, i, "f4")) for i in range(7)]
    tensors.insert(3, ("large", np.zeros(200, "f4")))
    write_tensor_files(tmp_path, tensors, max_shard_bytes=250)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{i:05d}-of-00005.safetensors" for i in range(1, 6)]
    in_files = [[name for name in header_of(tmp_path / file)[0] if name != "__metadata__"] for file in files]
    assert in_files[2] == ["large"]
    assert [name for group in in_files for name in group] == [name for name, _ in tensors]


def test_floats_are_stored_as_asked(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 7)).astype("f4")
    tensors = {"f4": values, "f8": values.astype("f8"), "f2": values.astype("f2"), "bf": values.astype(BF16)}
    tensors["ids"] = np.arange(3)
    for dtype in ("BF16", "F32"):
        write_tensor_files(tmp_path / dtype, tensors.items(), dtype=dtype)
        files = TensorFiles.open(tmp_path / dtype)
        assert {name: tensor.dtype for name, tensor in files.items()} == {**dict.fromkeys(tensors, dtype), "ids": "I64"}
        for name in ("f4", "f8", "f2", "bf"):
            exact = tensors[name].astype("f4")
            expected = exact if dtype == "F32" else bfloat16.decode(bfloat16.encode(exact))
            assert np.array_equal(files[name].float32(), expected)


def test_stored_tensors_are_copied_as_they_are(tmp_path):
    files = TensorFiles.open(single(tmp_path / "a"))
    write_tensor_files(tmp_path / "b", files.items(), max_shard_bytes=100, dtype="F32")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_bytes_of_a_small_file(tmp_path):
    write_tensor_files(tmp_path, [("a", np.array([1, 2], "f4"))], metadata={"é": "x"})
    header = '{"__metadata__":{"é":"x"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.encode()
    padded = header + b" " * (-len(header) % 8)
    values = np.array([1, 2], "<f4").tobytes()
    assert (tmp_path / ONE).read_bytes() == len(padded).to_bytes(8, "little") + padded + values
    assert os.listdir(tmp_path) == [ONE]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([("a", np.zeros(1)), ("a", np.zeros(1))], "tensor 'a' comes twice"),
        ([("__metadata__", np.zeros(1))], "cannot have this name"),
        ([("", np.zeros(1))], "cannot have this name"),
        ([("\ud800", np.zeros(1))], "cannot have this name"),
        ([("a", np.zeros(1, "c8"))], "has dtype complex64, expected one of float64"),
        ([("a", np.array([None]))], "has dtype object"),
        ([("a", np.array([1e300]))], "beyond the largest of float32"),
    ],
)
def test_what_cannot_be_written(tmp_path, tensors, words):
    with pytest.raises(PretrainedError, match=words):
        write_tensor_files(tmp_path / "x" / "y", [("first", np.zeros(3)), *tensors], dtype="BF16")
    assert os.listdir(tmp_path) == []


def test_shards_of_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_shard_bytes must be positive, got 0"):
        write_tensor_files(tmp_path, [], max_shard_bytes=0)


@pytest.mark.parametrize("layout", [single, sharded])
def test_a_model_is_not_overwritten(tmp_path, layout):
    before = contents(layout(tmp_path))
    with pytest.raises(PretrainedError, match=r"model.*\.safetensors exists: choose another folder"):
        write_tensor_files(tmp_path, [("a", np.zeros(1))])
    assert contents(tmp_path) == before


def test_other_files_stay(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PretrainedError):
        write_tensor_files(tmp_path, [("", np.zeros(1))])
    assert os.listdir(tmp_path) == ["config.json"]
    single(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", ONE]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_stays_behind_wherever_it_ends(tmp_path, monkeypatch, error):
    """At the n-th call that writes, flushes or renames, for all n until it succeeds."""
    named = set()
    for n in range(1000):
        calls = 0

        def sometimes(function, n=n):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == n + 1:
                    raise error
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", sometimes(open))
            for name in ("fsync", "replace"):
                patch.setattr(os, name, sometimes(getattr(os, name)))
            try:
                sharded(tmp_path / "x" / "model")
            except type(error) as caught:
                named.add("/x/model" in str(caught))
                assert os.listdir(tmp_path) == []
            else:
                break
    assert 20 < n < 1000
    assert named == {isinstance(error, OSError)}
    assert len(contents(tmp_path / "x" / "model")) == 14


def test_a_disk_that_is_full_at_any_byte(tmp_path, monkeypatch):
    """The limit of the system on the size of a file, instead of a disk of that size."""
    import resource

    rows = np.ones((100, 100), "f4")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in (100, 40_000, 40_050, 80_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(OSError, match=r"File too large.*model-00001"):
                write_tensor_files(tmp_path / "model", [("a", rows), ("b", rows)])
            assert os.listdir(tmp_path) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_an_error_of_the_caller_leaves_nothing(tmp_path):
    def tensors():
        yield "a", np.zeros(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_tensor_files(tmp_path / "model", tensors())
    assert os.listdir(tmp_path) == []


def test_memory_stays_at_one_tensor(tmp_path):
    size = 1 << 22

    def tensors():
        for i in range(6):
            array = np.zeros(size // 4, "f4")
            yield f"layers.{i}", array
            del array

    tracemalloc.start()
    write_tensor_files(tmp_path, tensors(), max_shard_bytes=2.5 * size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * size + (1 << 20)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
