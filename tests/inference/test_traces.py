"""Traces on the disk."""

import json

import pytest

from moe_numpy.inference import Request, Trace

TRACE = Trace(
    {1: (6000, 6000, 7000), 3: (6000,)},
    8192,
    (
        Request(0, 1, (2, 0), rows=(5, 1)),
        Request(0, 3, (0,)),
        Request(1, 1, (1, 2), guess=(0, 2)),
    ),
)


def test_saved_and_loaded(tmp_path):
    TRACE.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == TRACE
    assert TRACE.num_experts == 4
    assert TRACE.at_once == 2
    Trace({1: (5,)}, 8, ()).save(tmp_path / "empty.json")
    assert Trace.load(tmp_path / "empty.json").at_once == 1
    document = json.loads((tmp_path / "trace.json").read_text())
    assert document["requests"][0] == {"step": 0, "layer": 1, "experts": [2, 0], "rows": [5, 1]}
    assert document["version"] == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "trace"}, "kind is 'trace', expected 'moe_numpy expert trace'"),
        ({"version": 2}, "version is 2, expected 1"),
        ({"slot_bytes": 6999}, "slot_bytes must be at least 7000, got 6999"),
        ({"slot_bytes": 0}, "slot_bytes"),
        ({"expert_bytes": {"one": [1]}}, "expert_bytes has 'one', expected the number of a layer"),
        ({"more": 1}, "unknown field `more`"),
        ({"requests": [{"step": 0, "layer": 2, "experts": [0]}]}, r"requests\[0\] is for layer 2, .* layers \[1, 3\]"),
        ({"requests": [{"step": 0, "layer": 3, "experts": [1]}]}, r"has 1 in experts, layer 3 has experts 0 to 0"),
        ({"requests": [{"step": 0, "layer": 1, "experts": [1], "guess": [3]}]}, r"has 3 in guess"),
        ({"requests": [{"step": 0, "layer": 1, "experts": [1, 1]}]}, "has an expert twice in experts"),
        ({"requests": [{"step": 0, "layer": 1, "experts": [-1]}]}, r"\.requests\[0\]\.experts\[0\]"),
        ({"requests": [{"step": 0, "layer": 1, "experts": [0, 1], "rows": [3]}]}, "has 2 experts and 1 rows"),
        (
            {"requests": [{"step": 1, "layer": 1, "experts": []}, {"step": 0, "layer": 1, "experts": []}]},
            r"requests\[1\] is of step 0, after one of step 1",
        ),
    ],
)
def test_damaged(tmp_path, changed, message):
    path = tmp_path / "trace.json"
    TRACE.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ValueError, match=message) as error:
        Trace.load(path)
    assert str(path) in str(error.value)
