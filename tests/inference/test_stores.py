"""What a store gives, however it comes into memory; and what it refuses."""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stores import EXPERTS, LAYERS, SIZE, SLOT, same, write_experts

from moe_numpy.inference import POLICIES, ByteRange, MappedStore, SlotStore, StoreError, total
from moe_numpy.inference import open_file as open_file_module
from moe_numpy.inference.byte_ranges import layout_of
from moe_numpy.inference.open_file import OpenFile


@pytest.fixture
def stored(tmp_path):
    return write_experts(tmp_path)


def test_ranges_side_by_side_are_one_run(stored):
    _, ranges = stored
    layout = layout_of(ranges[1, 0])
    near, far = layout.runs
    assert (near.start, near.end, near.at) == (0, 5077, 0)
    assert far.at == near.room == 8192
    assert layout.places[:2] == ((1077, 5077), (77, 1077))
    assert layout.nbytes == 2 * SIZE
    whole, inside = ByteRange(near.file, 5000, 9000), ByteRange(near.file, 6000, 10)
    overlapping = layout_of([inside, whole])
    assert [(run.start, run.end) for run in overlapping.runs] == [(4096, 14000)]
    assert overlapping.places == ((1904, 1914), (904, 9904))


def use(store, ranges, content, rng, steps=12):
    """Random requests, guesses and prompts; every byte is compared."""
    for _ in range(steps):
        for layer, following in zip(LAYERS, LAYERS[::-1], strict=True):
            store.prefetch(following, rng.choice(EXPERTS, rng.integers(0, 5), replace=False).tolist())
            experts = rng.choice(EXPERTS, 2, replace=False).tolist()
            for views, e in zip(store.get(layer, experts), experts, strict=True):
                assert same(views, ranges[layer, e], content)
        chosen = rng.permutation(EXPERTS)[:4]
        rows = {int(e): int(n) for e, n in zip(chosen, rng.integers(1, 9, 4), strict=True)}
        used = []
        for e, views in store.each(LAYERS[0], rows):
            assert same(views, ranges[LAYERS[0], e], content)
            used.append(e)
        assert sorted(used) == sorted(rows)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slots", [2, 3, 5, 100])
def test_bytes_are_those_of_the_file(stored, policy, slots, direct):
    content, ranges = stored
    with SlotStore(ranges, slots * SLOT, at_once=2, policy=policy, direct=direct) as store:
        assert store.num_slots == min(slots, len(ranges))
        use(store, ranges, content, np.random.default_rng(slots))
        counts = total(store.counts.values())
    assert counts.requests == 12 * (4 + 4)
    assert counts.bytes_read == 2 * SIZE * (counts.misses + counts.prefetched)
    assert 0 < counts.hits < counts.requests


def test_mapped_and_resident(stored):
    content, ranges = stored
    for store in (MappedStore(ranges), SlotStore.resident(ranges)):
        with store:
            assert store.present(3) == list(range(EXPERTS))
            use(store, ranges, content, np.random.default_rng(0))
            counts = total(store.counts.values())
            assert counts.hits == counts.requests == 96
            assert store.experts == dict.fromkeys(LAYERS, EXPERTS)
            with pytest.raises(ValueError, match="read-only"):
                store.get(1, [0])[0][0][0] = 1
    assert counts.bytes_read == 2 * SIZE * len(ranges)


def test_what_leaves_does_not_depend_on_time(stored, monkeypatch):
    content, ranges = stored

    def present(delay):
        plain = OpenFile.read
        held = threading.Event()

        def slow(self, *arguments):
            held.wait(delay)
            plain(self, *arguments)

        with monkeypatch.context() as patched, SlotStore(ranges, 4 * SLOT, at_once=2) as store:
            patched.setattr(OpenFile, "read", slow)
            use(store, ranges, content, np.random.default_rng(1), steps=6)
            return [store.present(layer) for layer in LAYERS], [
                vars(c) | {"seconds_waited": 0} for c in store.counts.values()
            ]

    assert present(0) == present(0.001)


def test_a_slot_is_filled_after_the_read_before_has_ended(stored, monkeypatch):
    """Even if the one between the two was given up before it began."""
    content, ranges = stored
    plain, go = OpenFile.read, threading.Event()

    def held(self, *arguments):
        if "soon" in threading.current_thread().name:
            go.wait(10)
        plain(self, *arguments)

    monkeypatch.setattr(OpenFile, "read", held)
    with SlotStore(ranges, 4 * SLOT) as store:
        for layer in LAYERS:  # four reads that wait, and four behind them
            store.prefetch(layer, [0, 1, 2, 3])
            store.expect(layer, [])
        timer = threading.Timer(0.05, go.set)
        timer.start()
        (views,) = store.get(1, [5])
        timer.join()
        store._background.shutdown()
        assert same(views, ranges[1, 5], content)


def test_a_later_get_waits_only_for_what_has_not_arrived(stored, monkeypatch):
    content, ranges = stored
    plain, begun = OpenFile.read, []

    def noting(self, *arguments):
        begun.append(threading.current_thread().name)
        plain(self, *arguments)

    monkeypatch.setattr(OpenFile, "read", noting)
    with SlotStore(ranges, 6 * SLOT, at_once=2) as store:
        store.prefetch(1, [0, 1])
        store.get(3, [5])
        for reading in store._pending.values():
            reading.future.result()
        assert len(begun) == 6  # two runs each
        views = store.get(1, [1, 0])
        assert len(begun) == 6
        assert all(same(v, ranges[1, e], content) for v, e in zip(views, (1, 0), strict=True))
        assert store.counts[1].hits == 2
        assert store.counts[1].prefetched == 2


def test_what_is_in_use_stays(stored):
    content, ranges = stored
    with SlotStore(ranges, 3 * SLOT, at_once=2) as store:
        (first,) = store.get(1, [0])
        (second,) = store.get(1, [1])
        store.prefetch(3, [0, 1, 2, 3])  # there is room for one
        assert store.present(3) == [0]
        assert same(first, ranges[1, 0], content)
        assert same(second, ranges[1, 1], content)
        with pytest.raises(
            ValueError, match=r"layer 1 needs 4 experts in memory at once, there is room for 3: release"
        ):
            store.get(1, [2, 3])
        store.release()
        assert same(store.get(1, [2])[0], ranges[1, 2], content)


def test_a_prefetch_takes_no_place_of_what_is_expected(stored):
    _, ranges = stored
    with SlotStore(ranges, 2 * SLOT, at_once=2, policy="lru") as store:
        store.get(1, [0, 1])
        store.expect(1, [0, 1])
        store.release()
        store.prefetch(3, [2])
        assert store.present(1) == [0, 1]
        store.expect(1, [])
        store.prefetch(3, [2])
        assert (store.present(1), store.present(3)) == ([1], [2])


def test_memory_below_the_least(stored):
    _, ranges = stored
    with pytest.raises(
        ValueError, match=r"memory of 61,439 bytes is too little: the 3 experts that one layer uses at once need 61,440"
    ):
        SlotStore(ranges, 3 * SLOT - 1, at_once=3)
    with pytest.raises(ValueError, match="policy must be one of lru, lfu, next-layer, got 'fifo'"):
        SlotStore(ranges, 10**6, policy="fifo")
    with pytest.raises(ValueError, match="there are no experts to store"):
        SlotStore({}, 10**6)
    with pytest.raises(ValueError, match="must not be negative, got -1 and 3"):
        ByteRange(Path("x"), -1, 3)
    with SlotStore(ranges, 10**6) as store, pytest.raises(ValueError, match="there is no expert 6 in layer 1"):
        store.get(1, [0, 6])


@pytest.mark.parametrize("direct", [True, False])
def test_a_file_that_changes_is_named(stored, direct):
    _, ranges = stored
    path = ranges[1, 0][0].file
    for kind in (MappedStore, lambda r: SlotStore(r, 10**6, direct=direct)):
        write_experts(path.parent)
        with kind(ranges) as store:
            store.get(1, [0])
            os.truncate(path, 70_000)
            with pytest.raises(StoreError, match=f"{path} has been truncated since it was opened"):
                store.get(1, [1])
        write_experts(path.parent)
        with kind(ranges) as store:
            os.utime(path, ns=(1, 1))
            store.prefetch(3, [2])
            for _ in range(2):  # what could not be read is not there the second time either
                with pytest.raises(StoreError, match=f"{path} has changed since it was opened"):
                    store.get(3, [2])
    os.truncate(path, 70_000)
    with pytest.raises(StoreError, match=f"{path} has 70,000 bytes, expected at least 120,077: truncated"):
        MappedStore(ranges)
    path.unlink()
    with pytest.raises(StoreError, match=f"{path} cannot be read: No such file"):
        SlotStore(ranges, 10**6, direct=direct)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system cannot drop pages")
def test_through_the_page_cache_and_out_again(stored, monkeypatch):
    _, ranges = stored
    plain, dropped = os.posix_fadvise, []

    def noting(descriptor, start, length, advice):
        if advice == os.POSIX_FADV_DONTNEED:
            dropped.append((start, start + length))
        plain(descriptor, start, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", noting)
    with SlotStore(ranges, 3 * SLOT, at_once=2, direct=False) as store:
        store.get(1, [2])
        runs = store.layouts[1, 2].runs
    assert sorted(dropped) == [(run.start, run.start + run.room) for run in runs]


def test_without_o_direct_and_preadv(stored, monkeypatch):
    """As on Windows."""
    content, ranges = stored
    for name in ("O_DIRECT", "preadv", "posix_fadvise"):
        monkeypatch.delattr(os, name, raising=False)
    with SlotStore(ranges, 3 * SLOT, at_once=2) as store:
        assert not any(file.direct for file in store._files.values())
        use(store, ranges, content, np.random.default_rng(0))


def test_a_file_system_that_refuses_o_direct(stored, monkeypatch):
    content, ranges = stored
    plain = os.preadv

    def refusing(descriptor, buffers, offset):
        if isinstance(buffers[0], memoryview):
            return plain(descriptor, buffers, offset)
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(open_file_module.os, "preadv", refusing)
    with SlotStore(ranges, 3 * SLOT, at_once=2) as store:
        assert not any(file.direct for file in store._files.values())
        use(store, ranges, content, np.random.default_rng(0))


def test_an_interrupted_read_is_begun_again(stored, monkeypatch):
    content, ranges = stored
    plain, interrupts = OpenFile.read, [KeyboardInterrupt()]

    def interrupted(self, *arguments):
        if interrupts and threading.current_thread() is threading.main_thread():
            raise interrupts.pop()
        plain(self, *arguments)

    monkeypatch.setattr(OpenFile, "read", interrupted)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *_: Future())  # no thread ever comes to it
    with SlotStore(ranges, 3 * SLOT, at_once=2) as store:
        with pytest.raises(KeyboardInterrupt):
            store.get(1, [0, 1])
        for views, e in zip(store.get(1, [0, 1]), (0, 1), strict=True):
            assert same(views, ranges[1, e], content)
        assert not interrupts


def test_a_disk_that_fails(stored, monkeypatch):
    content, ranges = stored
    plain = os.preadv
    with SlotStore(ranges, 3 * SLOT, at_once=2) as store:

        def failing(*arguments):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "preadv", failing)
        with pytest.raises(StoreError, match=r"experts.bin cannot be read: Input/output error"):
            store.get(1, [0, 1])
        monkeypatch.setattr(os, "preadv", plain)
        assert store.present(1) == []
        assert same(store.get(1, [1])[0], ranges[1, 1], content)
