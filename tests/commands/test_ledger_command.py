import json
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from typer.testing import CliRunner

from moe_numpy.__main__ import app
from moe_numpy.training.run_ledger import RunLedger


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two parts."""
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "words.txt"
    text.write_text("the cat sat on the mat, and the dog did not. " * 20)
    sizes = ["--d-model", 8, "--num-layers", 1, "--num-experts", 4, "--d-ff", 8, "--context", 16, "--batch-size", 2]
    length = ["--steps", 4, "--checkpoint-every", 2, "--text", text, "--out", folder / "run"]
    parts = ["--deterministic", "--parts", 2, "--deduplicate", "sums"]
    with patch("moe_numpy.commands.train.save_run_figures", lambda run, summary: []):
        result = CliRunner().invoke(app, list(map(str, ["train", *sizes, *length, *parts])))
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture(autouse=True)
def _a_copy(trained, monkeypatch):
    monkeypatch.setattr("moe_numpy.commands.train.save_run_figures", lambda run, summary: [])
    shutil.copytree(trained, "runs/a")


def shown(cli):
    result = cli("ledger", "runs/a", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_it_agrees_with_the_prediction_and_is_shown(cli):
    document = shown(cli)
    assert (document["ranks"], document["since_step"], document["step"]) == (2, 0, 4)
    assert document["bytes"] == np.sum([of["sent"] for of in document["kinds"].values()])
    assert np.trace(document["sent"]) == 0
    assert "masks" in document["kinds"]  # deduplicated
    assert not document["differences"]
    lines = cli("ledger", "runs/a").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("gradients of rows") for line in lines)
    assert "Sent and predicted agree to the byte, from each rank to each other." in lines


def test_it_goes_on_from_the_checkpoint_that_a_run_continues_from(cli):
    whole = shown(cli)
    result = cli("train", "--resume", "--out", "runs/a", "--from-step", 2)
    assert result.exit_code == 0, result.output
    again = shown(cli)
    assert (again["since_step"], again["step"]) == (0, 4)
    for kind in ("gradients of rows", "dense gradients"):  # of the steps; validations may differ
        assert again["kinds"][kind] == whole["kinds"][kind], kind


def test_bytes_that_were_not_predicted_end_with_1(cli):
    path = Path("runs/a/ledger.json")
    content = json.loads(path.read_text())
    content["sent"]["rows"][0][1] += 4
    path.write_text(json.dumps(content))
    result = cli("ledger", "runs/a")
    assert result.exit_code == 1
    assert result.stderr == "error: sent and predicted bytes differ: rows\n"


def test_a_run_of_one_rank_has_none(refused):
    Path("runs/a/ledger.json").unlink()
    assert refused("ledger", "runs/a").startswith("runs/a has no ledger.json: one rank sends nothing")
    assert "is not a run" in refused("ledger", "nowhere")


@pytest.mark.parametrize("content", ["{}", '{"num_ranks": 2, "tally": [{"what": "gossip"}]}'])
def test_a_damaged_ledger_is_named(refused, content):
    Path("runs/a/ledger.json").write_text(content)
    assert "ledger.json" in refused("ledger", "runs/a")


def test_ledgers_add_up():
    entry = {"what": "told", "kind": "agreement", "amounts": {"numbers": [1, 1], "text": [0, 0]}}
    before = RunLedger(2, since=5, step=7, sent={"agreement": [[0, 8], [8, 0]]}, tally=[entry])
    both = before + RunLedger(2, step=9, sent={"rows": [[0, 1], [2, 0]]}, tally=[entry])
    assert (both.since, both.step) == (5, 9)
    assert both.sent == {"agreement": [[0, 8], [8, 0]], "rows": [[0, 1], [2, 0]]}
    assert both.tally == [entry | {"amounts": {"numbers": [2, 2], "text": [0, 0]}}]
