import json
import os
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from folders import contents, header_of, put, sharded, single, some_tensors

from moe_numpy.pretrained import PretrainedError, TensorFiles, write_tensor_files

ONE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def refused(path, *words):
    with pytest.raises(PretrainedError) as caught:
        TensorFiles.open(path)
    message = str(caught.value)
    assert message.isprintable()
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("layout", [single, sharded])
def test_tensors_are_what_was_written(tmp_path, layout):
    files = TensorFiles.open(layout(tmp_path / "model"))
    expected = some_tensors()
    assert set(files) == set(expected)
    assert len(files) == len(expected)
    for name, array in expected.items():
        assert files[name].name == name
        assert files[name].shape == array.shape
        assert files[name].raw.tobytes() == array.tobytes()
        assert not files[name].raw.flags.writeable
        assert files[name].file.parent == tmp_path / "model"
        if files[name].dtype in ("BF16", "F16", "F32", "F64"):
            values = files[name].float32()
            assert values.dtype == np.float32
            assert values.flags.writeable
            assert np.array_equal(values, array.astype("f4"))


def test_the_types_of_raw(tmp_path):
    files = TensorFiles.open(single(tmp_path))
    types = {tensor.dtype: tensor.raw.dtype.name for tensor in files.values()}
    assert types == {
        **{"BF16": "uint16", "F8_E4M3": "uint8", "U8": "uint8", "I64": "int64"},
        **{"F16": "float16", "F32": "float32", "F64": "float64"},
    }


@pytest.mark.parametrize("name", ["model.ids", "model.blocks", "model.fp8"])
def test_what_is_no_weight_by_itself_has_no_float32(tmp_path, name):
    with pytest.raises(PretrainedError, match=f"{name}.*no values of its own"):
        TensorFiles.open(single(tmp_path))[name].float32()


def test_a_double_beyond_float32_is_refused(tmp_path):
    write_tensor_files(tmp_path, [("a", np.array([1e300])), ("b", np.array([np.inf, np.nan, 1e-300]))])
    files = TensorFiles.open(tmp_path)
    with pytest.raises(PretrainedError, match="'a' is F64 with a value beyond"):
        files["a"].float32()
    assert np.array_equal(files["b"].float32(), np.array([np.inf, np.nan, 0], "f4"), equal_nan=True)


def test_values_that_are_not_aligned(tmp_path):
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    header["b"] = {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}
    put(tmp_path / ONE, header, b"\0" + np.array([1.5, -2], "f4").tobytes())
    tensor = TensorFiles.open(tmp_path)["b"]
    assert tensor.raw.tolist() == tensor.float32().tolist() == [1.5, -2]
    assert tensor.float32().flags.aligned


def test_one_file_of_any_name_and_the_file_itself(tmp_path):
    folder = single(tmp_path / "model")
    (folder / ONE).rename(folder / "weights.safetensors")
    assert len(TensorFiles.open(folder)) == len(TensorFiles.open(str(folder / "weights.safetensors"))) == 14


def test_links_to_files_are_followed(tmp_path):
    folder = single(tmp_path / "model")
    (folder / ONE).rename(tmp_path / "blob")
    (folder / ONE).symlink_to(tmp_path / "blob")
    assert len(TensorFiles.open(folder)) == 14


def test_an_index_may_name_the_single_file(tmp_path):
    folder = single(tmp_path)
    (folder / INDEX).write_text(json.dumps({"metadata": None, "weight_map": dict.fromkeys(some_tensors(), ONE)}))
    assert len(TensorFiles.open(folder)) == 14


def test_what_stands_in_place_of_a_file(tmp_path):
    path = tmp_path / ONE
    refused(tmp_path / "nowhere", "nowhere does not exist")
    refused(tmp_path / "nowhere.safetensors", "nowhere.safetensors does not exist")
    refused(tmp_path, str(tmp_path), "holds no .safetensors file", ONE, INDEX)
    path.mkdir()
    refused(tmp_path, str(path), "is a folder")
    path.rmdir()
    os.mkfifo(path)
    refused(tmp_path, str(path), "pipe or device")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as s:
        here = Path.cwd()
        os.chdir(tmp_path)  # names of sockets are short
        s.bind(ONE)
        os.chdir(here)
    refused(tmp_path, str(path), "pipe or device")
    path.unlink()
    for target, words in [
        ("/dev/zero", "pipe or device"),
        ("gone", "is a link to gone, which does not exist"),
        (ONE, "Too many levels of symbolic links"),
    ]:
        path.symlink_to(target)
        refused(tmp_path, str(path), words)
        path.unlink()
    path.touch()
    refused(tmp_path, str(path), "is empty")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    refused(tmp_path, str(path), "Git LFS pointer", "git lfs pull")
    path.write_bytes(b"\0" * 7)
    refused(tmp_path, str(path), "7 bytes")


def test_a_message_is_one_line_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / "line\nbreak \x1b[31m\udcff"
    assert "line\\nbreak \\x1b[31m\\udcff does not exist" in refused(folder)
    folder.mkdir()
    refused(folder, "line\\nbreak", "holds no .safetensors file")


def test_without_permission(tmp_path, monkeypatch):
    folder = single(tmp_path)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", denied)
        refused(folder, ONE, "cannot be read: Permission denied")
    monkeypatch.setattr(os, "listdir", denied)
    refused(folder, "cannot be read: Permission denied")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_never_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\3\4")
    for path in (tmp_path, tmp_path / name):
        refused(path, name, "is a pickle", "never read", "save_pretrained")


def test_several_files_without_an_index(tmp_path):
    folder = sharded(tmp_path)
    (folder / INDEX).unlink()
    refused(folder, "holds 4 .safetensors files", "model-00001-of-00004.safetensors", INDEX)


def test_one_file_beside_an_index_of_others(tmp_path):
    folder = sharded(tmp_path)
    put(folder / ONE, {})
    refused(folder, f"both {ONE} and {INDEX}")


def entry(dtype="F32", shape=(2,), data_offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        (b"", 0, "its header is not JSON"),
        (b"[]", 0, "its header is damaged: Expected `object`"),
        (b'{"a"', 0, "its header is not JSON"),
        (b'{"\xff": 1}', 0, "its header is not JSON"),
        (b"[" * 100_000, 0, "its header is damaged"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0, "its header is not JSON"),
        ({"__metadata__": {"format": 1}}, 0, "__metadata__ is damaged: Expected `str`"),
        ({"a": 1}, 0, "tensor 'a' is damaged: Expected `object`, got `int`"),
        ({"a": {}}, 0, "tensor 'a' is damaged: Object missing required field `dtype`"),
        ({"a": entry(more=1)}, 8, "tensor 'a' is damaged: Object contains unknown field `more`"),
        ({"a": entry(shape=[2.0])}, 8, "tensor 'a' is damaged: Expected `int`, got `float` - at `$.shape[0]`"),
        ({"a": entry(shape=[-2])}, 8, "tensor 'a' is damaged: Expected `int` >= 0"),
        ({"a": entry(shape=[2**64])}, 8, "tensor 'a' is damaged: Expected `int` <="),
        ({"a": entry(data_offsets=[0])}, 8, "tensor 'a' is damaged: Expected `array` of length 2"),
        ({"a": entry("F32x")}, 8, "tensor 'a' has dtype 'F32x', expected one of F64, F32"),
        ({"a": entry("F4")}, 8, "tensor 'a' has dtype 'F4', expected"),
        ({"a": entry()}, 7, "tensor 'a' ends at byte 8 of the values, the file has 7: truncated"),
        ({"a": entry()}, 9, "has 1 bytes after its last tensor"),
        ({}, 1, "has 1 bytes after its last tensor"),
        ({"a": entry(data_offsets=[1, 9])}, 9, "tensor 'a' begins at byte 1, expected 0: it leaves unused bytes after"),
        ({"a": entry(), "b": entry(data_offsets=[4, 12])}, 12, "begins at byte 4, expected 8: it overlaps tensor 'a'"),
        ({"a": entry(), "b": entry()}, 8, "tensor 'b' begins at byte 0, expected 8: it overlaps tensor 'a'"),
        ({"a": entry(), "b": entry(data_offsets=[12, 20])}, 20, "tensor 'b' begins at byte 12, expected 8: it leaves"),
        ({"a": entry(), "b": entry(shape=[0], data_offsets=[4, 4])}, 8, "tensor 'b' begins at byte 4, expected 8"),
        ({"a": entry(data_offsets=[8, 0])}, 8, "tensor 'a' begins at byte 8, expected 0"),
        ({"a": entry(shape=[3])}, 8, "tensor 'a' of shape [3] in F32 needs 12 bytes, has 8"),
        ({"a": entry("F16")}, 8, "tensor 'a' of shape [2] in F16 needs 4 bytes, has 8"),
        ({"a": entry(shape=[2**32, 2**32])}, 8, "tensor 'a' has an impossible shape"),
        ({"a": entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0])}, 0, "tensor 'a' has an impossible shape"),
        ({"a": entry(shape=[1] * 65, data_offsets=[0, 4])}, 4, "tensor 'a' has an impossible shape of 65 axes"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "has 'dtype' twice"),
        (b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
         8, "its header has 'a' twice"),
        ({"\n" * 10_000: 1}, 0, "\\n"),
    ],
)  # fmt: skip
def test_headers_that_do_not_fit(tmp_path, header, size, words):
    path = put(tmp_path / ONE, header, bytes(size))
    assert len(refused(tmp_path, str(path), words)) < 1000


def test_a_length_beyond_the_file_allocates_nothing(tmp_path):
    for length in (2**60, 2**64 - 1, 10**9):
        (tmp_path / ONE).write_bytes(length.to_bytes(8, "little") + b"{}")
        tracemalloc.start()
        refused(tmp_path, "has 10 bytes", f"{length:,}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1e6
    with open(tmp_path / ONE, "wb") as file:
        file.write((10**9).to_bytes(8, "little"))
        file.truncate(2 * 10**9)
    refused(tmp_path, "its header has 1,000,000,000 bytes", "32,000,000")


@pytest.mark.parametrize(
    "shard",
    ["../x", "/x", "a/x", "a\\x", "C:x", "x\0", "x.safetensors/..", "pytorch_model.bin", "../x.bin"],
)
def test_an_index_stays_in_its_folder(tmp_path, shard):
    single(tmp_path / "x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / INDEX).write_text(
        json.dumps({"weight_map": {"a": shard if "." in shard else f"{shard}.safetensors"}})
    )
    refused(tmp_path / "model", INDEX, "names the shard", "in its folder")


def test_an_index_and_its_shards_agree(tmp_path):
    folder = sharded(tmp_path / "model")
    path = folder / INDEX
    intact = json.loads(path.read_bytes())
    name, shard = next(iter(intact["weight_map"].items()))
    others = sorted(set(intact["weight_map"].values()) - {shard})

    def with_map(**changes):
        weight_map = {**intact["weight_map"], **changes}
        path.write_text(json.dumps({"weight_map": {n: s for n, s in weight_map.items() if s}}))

    with_map(x=shard)
    refused(folder, f"{shard} lacks tensor 'x', which {INDEX} places there")
    with_map(**{name: None})
    refused(folder, f"{shard} holds tensor '{name}', which {INDEX} does not name")
    with_map(**{name: others[0]})
    refused(folder, f"{shard} holds tensor '{name}', which {INDEX} places in '{others[0]}'")
    with_map(x="y.safetensors")
    refused(folder, f"y.safetensors is missing: {INDEX} names it")
    with_map()
    assert len(TensorFiles.open(folder)) == 14
    header, values = header_of(folder / others[0])
    first = next(name for name in header if name != "__metadata__")
    header[name] = header.pop(first)  # in two shards
    put(folder / others[0], header, values)
    refused(folder, others[0], f"holds tensor '{name}', which {INDEX} places in '{shard}'")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("", "is empty"),
        ("{}", "is damaged: Object missing required field `weight_map`"),
        ('{"weight_map": {}}', "names no tensor"),
        ('{"weight_map": {"a": 1}}', "is damaged: Expected `str`, got `int`"),
        ('{"weight_map": {"a": "x.safetensors", "a": "x.safetensors"}}', "has 'a' twice"),
        ("[1", "is damaged"),
        ("{'a'}", "is not JSON"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_an_index_that_is_damaged(tmp_path, index, words):
    folder = sharded(tmp_path)
    (folder / INDEX).write_text(index)
    refused(folder, INDEX, words)


def test_a_file_that_was_truncated_later_is_an_error_where_it_is_taken(tmp_path):
    files = TensorFiles.open(single(tmp_path))
    os.truncate(tmp_path / ONE, (tmp_path / ONE).stat().st_size - 1)
    last = list(files.values())[-1]
    for take in (lambda: last.raw, last.float32):
        with pytest.raises(PretrainedError, match="has been truncated since"):
            take()
    assert next(iter(files.values())).raw.size


MEASURE = """
import re, sys, time
import moe_numpy.pretrained as pretrained
def private():
    kib = re.findall(r"^(?:Private_Dirty|Anonymous): +(\\d+) kB", open("/proc/self/smaps_rollup").read(), re.M)
    return max(map(int, kib)) * 1024
before, start = private(), time.perf_counter()
files = pretrained.TensorFiles.open(sys.argv[1])
raw = [tensor.raw for tensor in files.values()]
sums = sum(int(r[:1].sum()) for r in raw)
print(len(files), private() - before, time.perf_counter() - start)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux has it")
def test_opening_maps_and_does_not_copy(tmp_path):
    rows = np.zeros((1 << 12, 1 << 12), ml_dtypes.bfloat16)  # 32 MiB
    write_tensor_files(tmp_path, ((f"layers.{i}", rows) for i in range(4)))
    run = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True)
    count, private, seconds = run.stdout.split()
    assert count == "4"
    assert int(private) < 8e6
    assert float(seconds) < 1


def test_contents_are_the_same_in_one_file_and_in_shards(tmp_path):
    assert contents(single(tmp_path / "a")) == contents(sharded(tmp_path / "b"))


def test_an_index_that_is_too_large(tmp_path):
    (tmp_path / INDEX).touch()
    os.truncate(tmp_path / INDEX, 10**9)
    refused(tmp_path, INDEX, "1,000,000,000 bytes, above the limit of 32,000,000")
