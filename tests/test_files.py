import json
import math
import os
from typing import Any

import numpy as np
import pytest

from moe_numpy.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    read_regular,
    truncate_history,
    write_atomically,
    write_json_atomically,
)


def test_json_round_trip_with_arrays(tmp_path):
    path = tmp_path / "summary.json"
    write_json_atomically(path, {"loss": np.float32(0.5), "load": np.array([[1, 2]]), "big": 2**127, "text": "größer"})
    assert json.loads(path.read_bytes()) == {"loss": 0.5, "load": [[1, 2]], "big": 2**127, "text": "größer"}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"a": math.nan}, ValueError, "JSON"),
        ({"a": np.array([np.inf])}, ValueError, "JSON"),
        ({"a": {1}}, TypeError, "set"),
    ],
)
def test_what_json_cannot_hold_leaves_the_old_file(tmp_path, value, error, message):
    path = tmp_path / "a.json"
    write_json_atomically(path, [1])
    with pytest.raises(error, match=message):
        write_json_atomically(path, value)
    assert json.loads(path.read_bytes()) == [1]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, stage):
    path = tmp_path / "a.json"
    write_json_atomically(path, [1])

    def crash(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, stage, crash)
        with pytest.raises(OSError, match="no space"):
            write_json_atomically(path, [2])
    assert json.loads(path.read_bytes()) == [1]
    write_json_atomically(path, [3])
    assert json.loads(path.read_bytes()) == [3]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_pipe_or_a_device_is_refused_and_stays(tmp_path):
    for name, kind in (("pipe", "a pipe"), ("null", "a link to a device")):
        path = tmp_path / name
        os.mkfifo(path) if kind == "a pipe" else path.symlink_to("/dev/null")
        before = os.lstat(path).st_ino
        for write in (write_json_atomically, append_jsonl):
            with pytest.raises(OSError, match="is not a regular file") as caught:
                write(path, {"a": 1})
            assert caught.value.filename == str(path)
        with pytest.raises(OSError, match="is not a regular file"):
            write_atomically({tmp_path / "other": "x", path: "x"})
        assert os.lstat(path).st_ino == before
    assert sorted(os.listdir(tmp_path)) == ["null", "pipe"]


def test_a_file_larger_than_memory_is_named(tmp_path):
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(2**43)  # of zeros that take no room
    with pytest.raises(OSError, match=r"has 8,796,093,022,208 bytes, more than memory holds") as caught:
        read_regular(path)
    assert caught.value.filename == str(path)


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "shared").mkdir()
    link = tmp_path / "a.json"
    link.symlink_to("shared/a.json")
    for value in ([1], [2]):
        write_json_atomically(link, value)
        assert link.is_symlink()
        assert json.loads((tmp_path / "shared" / "a.json").read_bytes()) == value
    assert os.listdir(tmp_path / "shared") == ["a.json"]


def test_a_system_that_cannot_open_folders_is_fine(tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr(os, "open", forbidden)
    write_json_atomically(tmp_path / "a.json", [1])
    assert (tmp_path / "a.json").exists()


@pytest.mark.parametrize("write", [lambda p: write_json_atomically(p, [1]), lambda p: append_jsonl(p, {"a": 1})])
def test_a_full_disk_is_named_with_the_file(tmp_path, monkeypatch, write):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"):
        write(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def signalled(*_):
        raise SystemExit(143)

    write_json_atomically(tmp_path / "a.json", [1])
    monkeypatch.setattr(os, "fsync", signalled)
    with pytest.raises(SystemExit):
        write_json_atomically(tmp_path / "a.json", [2])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json", list[int]) == [1]


@pytest.mark.parametrize("path", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_is_not_read(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a regular file"):
        read_regular(tmp_path / path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'["\\udcff"]'])
def test_what_is_not_json_is_a_value_error_with_the_name(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is truncated or damaged"):
        read_json(tmp_path / "a.json", Any)


def test_jsonl_round_trip(tmp_path):
    path = tmp_path / "history.jsonl"
    records = [{"step": i, "loss": np.float64(1 / 3), "note": "a\nb"} for i in range(3)]
    for record in records:
        append_jsonl(path, record)
    assert read_jsonl(path) == records
    assert len(path.read_text().splitlines()) == 3


def test_a_torn_last_line_is_left_out_wherever_it_is_torn(tmp_path):
    path = tmp_path / "history.jsonl"
    whole = b'{"step": 1}\n{"step": 2, "note": "x"}\n'
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        complete = (length >= 11) + (length >= len(whole) - 1)
        assert [record["step"] for record in read_jsonl(path)] == [1, 2][:complete]


def test_a_bad_line_that_is_not_the_last_is_an_error(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"history\.jsonl, line 2, is not JSON"):
        read_jsonl(path)


def test_history_is_truncated_to_a_step(tmp_path):
    path = tmp_path / "history.jsonl"
    truncate_history(path, 5)
    assert not path.exists()
    for step in range(1, 6):
        append_jsonl(path, {"step": step, "loss": step / 7})
    with open(path, "a") as file:
        file.write('{"step": 6, "lo')
    truncate_history(path, 3)
    append_jsonl(path, {"step": 4, "loss": 0.5})
    assert read_jsonl(path) == [{"step": s, "loss": s / 7} for s in (1, 2, 3)] + [{"step": 4, "loss": 0.5}]


def test_a_crash_while_truncating_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "history.jsonl"
    append_jsonl(path, {"step": 1})

    def crash(*_):
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="gone"):
            truncate_history(path, 0)
    assert read_jsonl(path) == [{"step": 1}]
