"""Checkpoints that several ranks write, each its experts, and any number of ranks reads."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.models import ModelConfig
from moe_numpy.parallel import Alone, Holding, Placement
from moe_numpy.parallel.parts import run_parts
from moe_numpy.training import Corpus, Domain, Run, Trainer, TrainingConfig, stored_checkpoint
from moe_numpy.training.checkpoint_files import CheckpointError
from moe_numpy.training.checkpoints import list_checkpoints, load_checkpoint, open_checkpoint, save_checkpoint
from moe_numpy.training.ranks import Ranks

E = 5
REPLICATED = Placement(((0, 2, 4), (1, 2), (), (0, 3)), E)


def arrays_of(step):
    return {
        "experts.up": np.arange(E * 6.0, dtype=np.float32).reshape(E, 2, 3) + step,
        "experts.bias": np.arange(float(E)) - step,
        "router": np.full((E, 3), step, np.float32),
        "step": np.array(step),
    }


def save(folder, step, placement, arrays=None):
    """All ranks of the placement write together."""

    def work(communicator):
        whole = arrays or arrays_of(step)
        holding = Holding(communicator, placement)
        spread = {name: holding for name in whole if name.startswith("experts.")}
        own = {name: array[list(holding.held)] if name in spread else array for name, array in whole.items()}
        save_checkpoint(folder, step, own, {"after": step}, communicator, spread)

    run_parts(Alone(), placement.num_ranks, work)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_holds(folder, step, expected=None):
    loaded = load_checkpoint(folder, step)
    assert (loaded.step, loaded.meta) == (step, {"after": step})
    expected = expected or arrays_of(step)
    assert loaded.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded.arrays[name], array, strict=True)
        loaded.arrays[name][...] = 0  # writable


@pytest.mark.parametrize(
    "placement",
    [Placement.even(E, 2), Placement.even(E, 3), Placement.even(E, 7), REPLICATED],
    ids=["uneven", "3 ranks", "more ranks than experts", "replicas"],
)
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path, placement):
    save(tmp_path, 3, placement)
    assert_holds(tmp_path, 3)
    everything = arrays_of(3)
    for readers in (Placement.even(E, 1), Placement.even(E, 2), Placement.even(E, 4), REPLICATED):

        def work(communicator, readers=readers):
            held = readers.experts[communicator.rank]
            stored = open_checkpoint(tmp_path, None, communicator)
            assert stored.shapes == {name: array.shape for name, array in everything.items()}
            arrays = stored.read({"experts.up": held, "experts.bias": held}).arrays
            for name, array in everything.items():
                wanted = array[list(held)] if name.startswith("experts.") else array
                np.testing.assert_array_equal(arrays[name], wanted, strict=True)

        run_parts(Alone(), readers.num_ranks, work)


@settings(max_examples=15, deadline=None)
@given(
    ranks_of=st.lists(st.sets(st.integers(0, 4), min_size=1), min_size=E, max_size=E),
    wanted=st.sets(st.integers(0, E - 1)).map(sorted),
)
def test_any_placement_is_read_back(tmp_path_factory, ranks_of, wanted):
    writers = Placement(tuple(tuple(e for e in range(E) if rank in ranks_of[e]) for rank in range(5)), E)
    folder = tmp_path_factory.mktemp("run")
    save(folder, 1, writers)
    assert_holds(folder, 1)
    arrays = open_checkpoint(folder).read({"experts.up": wanted}).arrays
    np.testing.assert_array_equal(arrays["experts.up"], arrays_of(1)["experts.up"][wanted], strict=True)
    np.testing.assert_array_equal(arrays["experts.bias"], arrays_of(1)["experts.bias"], strict=True)


def test_the_index_names_shards_experts_and_placement(tmp_path):
    save(tmp_path, 3, REPLICATED)
    index = json.loads((tmp_path / "checkpoint-000003.json").read_bytes())
    files = [f"checkpoint-000003-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]  # rank 2 has nothing to write
    assert (index["format_version"], [each["file"] for each in index["shards"]]) == (2, files)
    assert index["experts"] == [
        {
            "arrays": ["experts.up", "experts.bias"],
            "shards": [[0, 2, 4], [1], [3]],
            "placement": REPLICATED.to_json(),
        }
    ]
    assert names(tmp_path) == sorted([*files, "checkpoint-000003.json"])


@pytest.mark.parametrize("placement", [Placement.even(E, 1), Placement((tuple(range(E)),) * 2, E)], ids=["1", "2"])
def test_what_one_rank_holds_is_one_file_of_version_1(tmp_path, placement):
    save(tmp_path, 3, placement)
    assert names(tmp_path) == ["checkpoint-000003.json", "checkpoint-000003.safetensors"]
    assert json.loads((tmp_path / "checkpoint-000003.json").read_bytes())["format_version"] == 1
    assert_holds(tmp_path, 3)


def test_the_newest_two_are_kept_whatever_the_number_of_ranks(tmp_path):
    (tmp_path / "checkpoint-000001-00001-of-00002.safetensors").write_bytes(b"of a save that a kill cut off")
    for step, num_ranks in ((1, 2), (2, 3), (3, 1), (100000, 2), (1000001, 4)):
        save(tmp_path, step, Placement.even(E, num_ranks))
        assert_holds(tmp_path, step)
    assert list_checkpoints(tmp_path) == [100000, 1000001]
    assert len(names(tmp_path)) == 2 + 2 + 4


def test_a_step_is_saved_again_beside_the_files_that_it_replaces(tmp_path):
    for value, num_ranks in ((1, 2), (2, 2), (3, 3), (4, 1)):
        before = {name for name in names(tmp_path) if name.endswith(".safetensors")} if value > 1 else set()
        arrays = arrays_of(value)
        save(tmp_path, 7, Placement.even(E, num_ranks), arrays)
        assert not before & set(names(tmp_path))
        assert_holds(tmp_path, 7, arrays)


def test_all_files_of_a_step_whose_index_cannot_be_read_stay(tmp_path):
    save(tmp_path, 1, Placement.even(E, 2))
    (tmp_path / "checkpoint-000001.json").rename(tmp_path / "aside")
    (tmp_path / "checkpoint-000001.json").mkdir()
    save(tmp_path, 2, Placement.even(E, 2))
    (tmp_path / "checkpoint-000001.json").rmdir()
    (tmp_path / "aside").rename(tmp_path / "checkpoint-000001.json")
    assert_holds(tmp_path, 1)


class Crash(BaseException):
    """Power is cut at the n-th call of something that reaches the disk."""


@pytest.mark.parametrize("target", [2, 3], ids=["the same step again", "new step"])
def test_a_crash_of_any_rank_at_any_point_leaves_the_checkpoints_before_it(tmp_path, monkeypatch, target):
    template, placement = tmp_path / "template", Placement.even(E, 2)
    for step in (1, 2):
        save(template, step, placement)
    new, n, finished = arrays_of(-9), 0, False
    while not finished:
        folder, left = tmp_path / f"crash-{n}", n
        shutil.copytree(template, folder)

        def counted(real):
            def call(*args, **kwargs):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Crash
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (os, "replace"), (os, "remove"), (Path, "write_bytes")):
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                save(folder, target, placement, new)
                finished = True
            except Crash:
                pass
        newest = load_checkpoint(folder)
        is_new = newest.arrays["step"] == -9
        assert newest.step == (target if is_new else 2)
        assert_holds(folder, newest.step, new if is_new else None)
        save(folder, 4, placement)  # and the run goes on, without leftovers
        assert len(names(folder)) == 6
        n += 1
    assert n > 9  # three files written, synced and renamed, and old ones removed


@pytest.mark.parametrize("file", ["00001-of", "00002-of", ".json"])
def test_a_full_disk_of_one_rank_is_told_by_all_and_leaves_nothing(tmp_path, monkeypatch, file):
    save(tmp_path, 1, Placement.even(E, 2))
    before, told = names(tmp_path), []

    def full(path, content, real, *args, **kwargs):
        if file in path.name:
            real(path, content[:9], *args, **kwargs)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content, *args, **kwargs)

    for name in ("write_bytes", "write_text"):
        real = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda path, content, *a, real=real, **k: full(path, content, real, *a, **k))

    def work(communicator):
        holding = Holding(communicator, Placement.even(E, 2))
        own = {"experts.up": np.ones((len(holding.held), 2))}
        with pytest.raises(OSError, match=f"No space left on device.*{file}") as caught:
            save_checkpoint(tmp_path, 2, own, {}, communicator, {"experts.up": holding})
        told.append(str(caught.value))

    run_parts(Alone(), 2, work)
    assert len(told) == 2
    assert len(set(told)) == 1
    assert names(tmp_path) == before


def _edit(change):
    def damage(folder):
        path = folder / "checkpoint-000002.json"
        index = json.loads(path.read_bytes())
        change(index)
        path.write_text(json.dumps(index))

    return damage


def _flip_a_bit(folder):
    path = folder / "checkpoint-000002-00002-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a missing shard": (
        lambda folder: os.remove(folder / "checkpoint-000002-00002-of-00002.safetensors"),
        r"checkpoint-000002-00002-of-00002\.safetensors is missing",
    ),
    "a truncated shard": (
        lambda folder: os.truncate(folder / "checkpoint-000002-00001-of-00002.safetensors", 50),
        r"00001-of-00002\.safetensors has 50 bytes, \d+ were saved: it is truncated",
    ),
    "a bit of one shard": (_flip_a_bit, r"00002-of-00002\.safetensors does not have the SHA-256"),
    "no shards": (_edit(lambda index: index.update(shards=[], experts=[])), "is damaged: .* there are no files"),
    "a path that leads out": (_edit(lambda index: index["shards"][1].update(file="../x")), "no checkpoint is called"),
    "an expert twice": (
        _edit(lambda index: index["experts"][0].update(shards=[[0, 1, 2], [2, 3]])),
        r"is damaged: .* should have each of 5 experts once, got \[\[0, 1, 2\], \[2, 3\]\]",
    ),
    "experts elsewhere": (
        _edit(lambda index: index["experts"][0].update(shards=[[0, 1, 2, 3], [4]])),
        r"00001-of-00002\.safetensors: experts\.up should have entries for the experts \[0, 1, 2, 3\]",
    ),
    "too few shards of experts": (_edit(lambda i: i["experts"][0].update(shards=[[0, 1, 2, 3, 4]])), "2 shards, but"),
    "no placement": (
        _edit(lambda index: index["experts"][0].update(placement={})),
        "is damaged: .* missing required field",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_damage_of_a_shard_is_named_with_the_way_out_on_every_rank(tmp_path, damage, message, num_ranks):
    for step in (1, 2):
        save(tmp_path, step, Placement.even(E, 2))
    damage(tmp_path)

    def work(communicator):
        with pytest.raises(CheckpointError, match=message) as caught:
            open_checkpoint(tmp_path, None, communicator)
        assert str(caught.value).endswith("; step 1 is intact: --resume --from-step 1")

    run_parts(Alone(), num_ranks, work)
    assert_holds(tmp_path, 1)


def test_each_file_is_summed_by_one_rank(tmp_path, monkeypatch):
    save(tmp_path, 1, Placement.even(E, 4))
    summed, real = [], stored_checkpoint._sha256

    def noted(path):
        summed[-1].append(path.name)
        return real(path)

    monkeypatch.setattr(stored_checkpoint, "_sha256", noted)
    for rank in range(3):
        summed.append([])
        stored_checkpoint.verify(tmp_path, 1, rank, 3)
    first, second, third, fourth = (name for name in names(tmp_path) if name.endswith(".safetensors"))
    assert summed == [[first, fourth], [second], [third]]


MODEL = ModelConfig(d_model=8, num_layers=1, num_heads=1, num_kv_heads=1, d_ff=4, num_experts=E, context=8)
TEXT = np.frombuffer(b"some text, and then some more " * 20, np.uint8)
CORPUS = Corpus([Domain("a", TEXT, TEXT)])
CONFIG = TrainingConfig(steps=4, warmup=1, batch_size=7, checkpoint_every=2)


def train(run, num_ranks, from_step=None, across=None):
    """The losses of all steps; the model is the one that the run folder has."""

    def work(communicator):
        trainer = Trainer(MODEL, CONFIG, CORPUS, ranks=Ranks(communicator, experts_across=across))
        if from_step is not None:
            trainer.resume(run, from_step)
        trainer.train(lambda record: None, run)

    run_parts(Alone(), num_ranks, work)
    return [record["loss"] for record in run.history()], load_checkpoint(run.folder).arrays


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(Run.start(tmp_path_factory.mktemp("alone") / "run", MODEL, CONFIG), 1)


@pytest.mark.parametrize(
    ("num_ranks", "across", "then"), [(3, None, 2), (6, None, 1), (4, 2, 3), (1, None, 6)], ids=str
)
def test_a_run_continues_on_another_number_of_ranks(tmp_path, alone, num_ranks, across, then):
    run = Run.start(tmp_path / "run", MODEL, CONFIG)
    first = train(run, num_ranks, across=across)[1]
    losses, arrays = train(run, then, from_step=2)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for name, array in alone[1].items():
        np.testing.assert_allclose(first[name], array, rtol=1e-2, atol=1e-4)  # AdamW divides tiny gradients
        np.testing.assert_allclose(arrays[name], array, rtol=1e-2, atol=1e-4)
    run.model()  # of one process


def test_on_as_many_parts_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(tmp_path):
    run = Run.start(tmp_path / "run", MODEL, CONFIG)
    losses, arrays = train(run, 3)
    again, others = train(run, 3, from_step=2)
    assert again == losses
    assert all(np.array_equal(others[name], array) for name, array in arrays.items())
