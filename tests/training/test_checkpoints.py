import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moe_numpy.training import (
    CheckpointError,
    checkpoints,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)


def arrays_of(step):
    return {"weight": np.full((3, 4), step, np.float32), "step": np.array(step)}


def save(folder, *steps):
    for step in steps:
        save_checkpoint(folder, step, arrays_of(step), {"note": f"after {step}"})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_loads(folder, step, value=None):
    checkpoint = load_checkpoint(folder, step)
    assert checkpoint.step == step
    np.testing.assert_array_equal(checkpoint.arrays["weight"], step if value is None else value)


def test_round_trip_of_every_kind_of_array(tmp_path):
    arrays = {
        "float32": np.array([[0.1, -0.0], [np.inf, np.nan]], np.float32),
        "float64": np.array([1 / 3]),
        "float16": np.ones(3, np.float16),
        "int64": np.array([-(2**63), 2**63 - 1]),
        "uint8": np.arange(5, dtype=np.uint8),
        "bool": np.array([True, False]),
        "0-d": np.array(7, np.int32),
        "empty": np.zeros((0, 3), np.float32),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10, dtype=np.int16)[::-3],
        "big-endian": np.array([1.5, 2.5], ">f8"),
    }
    meta = {"rng": np.random.default_rng(0).bit_generator.state, "config": {"text": ["größer"], "x": None}}
    save_checkpoint(tmp_path / "runs" / "new", 12, arrays, meta)
    loaded = load_checkpoint(tmp_path / "runs" / "new")
    assert (loaded.step, loaded.meta) == (12, meta)
    assert loaded.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert (loaded.arrays[name].dtype, loaded.arrays[name].shape) == (native.dtype, native.shape), name
        assert loaded.arrays[name].tobytes() == native.tobytes(), name
        loaded.arrays[name][...] = 0  # writable


@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int32, np.int64]),
        hnp.array_shapes(min_dims=0, min_side=0),
    )
)
def test_round_trip_of_any_shape(tmp_path_factory, array):
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder, 0, {"x": array}, {})
    loaded = load_checkpoint(folder).arrays["x"]
    assert (loaded.dtype, loaded.shape, loaded.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_the_newest_two_are_kept_and_nothing_else_is_touched(tmp_path):
    bystanders = ["checkpoint-best.safetensors", "history.jsonl", "config.json"]
    for name in bystanders:
        (tmp_path / name).write_text("mine")
    save(tmp_path, 100, 200, 300, 1_000_000)
    assert list_checkpoints(tmp_path) == [300, 1_000_000]
    ours = [f"checkpoint-{step}.{end}" for step in ("000300", "1000000") for end in ("json", "safetensors")]
    assert names(tmp_path) == sorted(bystanders + ours)
    assert_loads(tmp_path, 300)
    assert load_checkpoint(tmp_path).step == 1_000_000


def test_a_save_after_resuming_from_an_older_one_removes_the_abandoned_future(tmp_path):
    save(tmp_path, 200, 300)
    save(tmp_path, 250)
    assert list_checkpoints(tmp_path) == [200, 250]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    for value in (5.0, 6.0, 7.0):
        save_checkpoint(tmp_path, 2, {"weight": np.full(3, value)}, {})
        assert_loads(tmp_path, 2, value)
        assert len(names(tmp_path)) == 4


class Crash(Exception):
    """Power is cut at the n-th call of something that reaches the disk."""


def crash_at(monkeypatch, n):
    count = 0

    def counted(real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count > n:
                raise Crash
            return real(*args, **kwargs)

        return call

    for module, name in (
        (os, "fsync"),
        (os, "replace"),
        (os, "remove"),
        (checkpoints.Path, "write_text"),
        (checkpoints.Path, "write_bytes"),
    ):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))


@pytest.mark.parametrize("again", [False, True], ids=["new step", "same step again"])
def test_a_crash_at_any_point_leaves_the_checkpoints_before_it(tmp_path, monkeypatch, again):
    template = tmp_path / "template"
    save(template, 100, 200)
    target = 200 if again else 300
    finished = False
    n = 0
    while not finished:
        folder = tmp_path / f"crash-{n}"
        shutil.copytree(template, folder)
        with monkeypatch.context() as patch:
            crash_at(patch, n)
            try:
                save_checkpoint(folder, target, {"weight": np.full(2, -1.0)}, {})
                finished = True
            except Crash:
                pass
        newest = load_checkpoint(folder)  # what is listed is intact, whatever happened
        if newest.step == target and newest.arrays["weight"].shape == (2,):
            np.testing.assert_array_equal(newest.arrays["weight"], -1.0)
        else:
            assert newest.step == 200
            assert_loads(folder, 200)
            assert_loads(folder, 100)
        save(folder, 400)  # and the run goes on, without leftovers
        assert len(names(folder)) == 4
        assert_loads(folder, 400)
        n += 1
    assert n > 8  # both files written, synced and renamed, and old ones removed


def unreadable(path):
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    return lambda: (path.rmdir(), path.write_bytes(content))


def test_what_cannot_be_read_at_the_moment_is_not_deleted(tmp_path):
    save(tmp_path, 100, 200)
    repair = unreadable(tmp_path / "checkpoint-000200.json")
    save(tmp_path, 300)
    repair()
    assert_loads(tmp_path, 200)
    assert_loads(tmp_path, 300)


@pytest.mark.parametrize("saves", [1, 2])
def test_saving_again_over_an_unreadable_json_keeps_its_arrays_until_the_new_ones_are_named(tmp_path, saves):
    save(tmp_path, 200)
    for value in range(saves):
        (tmp_path / "checkpoint-000200.json").write_text("{")
        before = {path.name for path in tmp_path.glob("*.safetensors")}
        save_checkpoint(tmp_path, 200, {"weight": np.full(3, value)}, {})
        assert json.loads((tmp_path / "checkpoint-000200.json").read_bytes())["tensors"]["file"] not in before
        assert_loads(tmp_path, 200, value)


def test_files_have_the_mode_of_any_other_file(tmp_path):
    old = os.umask(0o027)
    try:
        save(tmp_path, 100)
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("stage", ["write_bytes", "write_text"])
def test_a_full_disk_is_named_with_the_file_and_leaves_nothing(tmp_path, monkeypatch, stage):
    save(tmp_path, 100)
    before = names(tmp_path)
    real = getattr(checkpoints.Path, stage)

    def full(path, content, *args, **kwargs):
        real(path, content[: len(content) // 2], *args, **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.Path, stage, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*checkpoint-000200\.(safetensors|json)'"):
        save(tmp_path, 200)
    assert names(tmp_path) == before
    assert_loads(tmp_path, 100)


def test_a_half_written_file_is_not_a_checkpoint(tmp_path):
    save(tmp_path, 100)
    (tmp_path / "checkpoint-000200.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoint-000300.json.tmp").write_bytes(b"{")
    assert list_checkpoints(tmp_path) == [100]
    save(tmp_path, 150)
    assert len(names(tmp_path)) == 4


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def make_foreign_but_vouched_for(folder):
    tensors = folder / "checkpoint-000200.safetensors"
    tensors.write_bytes(b"not safetensors at all")
    digest = hashlib.sha256(tensors.read_bytes()).hexdigest()
    edit(
        folder / "checkpoint-000200.json",
        tensors={"file": tensors.name, "bytes": tensors.stat().st_size, "sha256": digest},
    )


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "truncated arrays": (
        lambda f: os.truncate(f / "checkpoint-000200.safetensors", 50),
        r"checkpoint-000200\.safetensors has 50 bytes, \d+ were saved: it is truncated",
    ),
    "longer arrays": (
        lambda f: os.truncate(f / "checkpoint-000200.safetensors", 5000),
        r"has 5000 bytes, \d+ were saved: it is not the file that was saved",
    ),
    "one bit": (
        lambda f: flip_a_bit(f / "checkpoint-000200.safetensors"),
        r"checkpoint-000200\.safetensors does not have the SHA-256",
    ),
    "arrays of another step": (
        lambda f: shutil.copy(f / "checkpoint-000100.safetensors", f / "checkpoint-000200.safetensors"),
        "SHA-256",
    ),
    "no arrays": (
        lambda f: os.remove(f / "checkpoint-000200.safetensors"),
        r"checkpoint-000200\.safetensors is missing",
    ),
    "arrays are a folder": (
        lambda f: (
            os.remove(f / "checkpoint-000200.safetensors"),
            (f / "checkpoint-000200.safetensors").mkdir(),
            edit(
                f / "checkpoint-000200.json",
                tensors={
                    "file": "checkpoint-000200.safetensors",
                    "bytes": (f / "checkpoint-000200.safetensors").stat().st_size,
                    "sha256": "",
                },
            ),
        ),
        r"checkpoint-000200\.safetensors cannot be read: Is a directory",
    ),
    "foreign arrays": (
        make_foreign_but_vouched_for,
        r"checkpoint-000200\.safetensors is not a safetensors file",
    ),
    "truncated JSON": (
        lambda f: os.truncate(f / "checkpoint-000200.json", 30),
        r"checkpoint-000200\.json is truncated or damaged",
    ),
    "binary JSON": (
        lambda f: (f / "checkpoint-000200.json").write_bytes(b"\xff\xfe\x00"),
        "truncated or damaged",
    ),
    "JSON is a folder": (
        lambda f: (os.remove(f / "checkpoint-000200.json"), (f / "checkpoint-000200.json").mkdir()),
        r"checkpoint-000200\.json cannot be read: Is a directory",
    ),
    "foreign JSON": (
        lambda f: (f / "checkpoint-000200.json").write_text("[1]"),
        "was not written by moe_numpy",
    ),
    "other format": (
        lambda f: edit(f / "checkpoint-000200.json", format="x"),
        "was not written by moe_numpy",
    ),
    "later version": (
        lambda f: edit(f / "checkpoint-000200.json", format_version=3),
        "has format version 3; this moe_numpy reads 1 and 2",
    ),
    "renamed": (lambda f: edit(f / "checkpoint-000200.json", step=100), "describes step 100"),
    "no meta": (lambda f: edit(f / "checkpoint-000200.json", meta=None), "is damaged: step, tensors or meta"),
    "a path that leads out": (
        lambda f: edit(f / "checkpoint-000200.json", tensors={"file": "../x", "bytes": 1, "sha256": ""}),
        "is damaged: step, tensors or meta",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("step", [None, 200])
def test_damage_is_named_with_the_way_out(tmp_path, damage, message, step):
    save(tmp_path, 100, 200)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(tmp_path, step)
    assert str(caught.value).endswith("; step 100 is intact: --resume --from-step 100")
    assert_loads(tmp_path, 100)


def test_when_none_is_intact(tmp_path):
    save(tmp_path, 100, 200)
    for path in tmp_path.glob("*.safetensors"):
        flip_a_bit(path)
    with pytest.raises(CheckpointError, match="no other one is intact"):
        load_checkpoint(tmp_path)


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="missing holds no checkpoint"):
        load_checkpoint(tmp_path / "missing")
    save(tmp_path, 100, 200)
    with pytest.raises(CheckpointError, match="holds no checkpoint of step 150; there are 100, 200"):
        load_checkpoint(tmp_path, 150)


@pytest.mark.parametrize(
    ("step", "arrays", "meta", "error", "message"),
    [
        (-1, {}, {}, ValueError, "step must be at least 0, got -1"),
        (3, {"x": np.array([None])}, {}, ValueError, "array 'x' has dtype object, which cannot be saved"),
        (3, {"x": np.array(["a"])}, {}, ValueError, "array 'x' has dtype <U1"),
        (3, {}, {"loss": float("nan")}, ValueError, "JSON"),
        (3, {}, {"what": object()}, TypeError, "JSON"),
    ],
)
def test_what_cannot_be_saved_leaves_earlier_checkpoints(tmp_path, step, arrays, meta, error, message):
    save(tmp_path, 1, 2)
    with pytest.raises(error, match=message):
        save_checkpoint(tmp_path, step, arrays, meta)
    assert list_checkpoints(tmp_path) == [1, 2]
    assert_loads(tmp_path, 2)
