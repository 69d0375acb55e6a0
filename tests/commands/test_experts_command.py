"""``experts``: what can be listed, added, dropped, merged and frozen in a run, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from moe_numpy.training import Run

pytestmark = pytest.mark.no_cover


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def shout(tmp_path):
    path = tmp_path / "shout.txt"
    path.write_text("THE CAT SAT ON THE MAT, AND THE DOG DID NOT! " * 60)
    return path


def document(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_list_of_experts(cli, run):
    rows = document(cli("experts", "list", run, "--json"))["experts"]
    assert [(row["layer"], row["expert"]) for row in rows] == [(i, e) for i in range(2) for e in range(4)]
    assert sum(row["load"] for row in rows) == pytest.approx(2) == sum(row["gate_mass"] for row in rows)
    shown = cli("experts", "list", run).stdout
    assert "Layer 1" in shown
    assert "gate mass" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_new_experts_train_alone_and_are_taken_away_again(cli, run, shout, tmp_path):
    out = tmp_path / "new"
    added = document(cli("experts", "add", run, "--text", shout, "--count", 1, "--steps", 4, "--out", out, "--json"))
    assert added["group"] == "shout"
    assert added["domain_loss_trained"][2] < added["domain_loss_start"][2]
    before, after = Run.open(run).model()[0].state_dict(), Run.open(out).model()[0].state_dict()
    for name, array in before.items():
        assert after[name][: len(array)].tobytes() == array.tobytes(), name
        assert ("feed_forward" in name and "norm" not in name) == (after[name].shape != array.shape)
    marks = [(row["frozen"], row["group"]) for row in document(cli("experts", "list", out, "--json"))["experts"]]
    assert marks == [*[(True, None)] * 4, (False, "shout")] * 2

    def text(folder, *options):
        return document(cli("generate", folder, "THE ", "--tokens", 12, "--json", *options))["text"]

    assert text(out, "--without", "shout") == text(out, "--without", "*:4") == text(run)
    dropped = tmp_path / "back"
    document(cli("experts", "drop", out, "shout", "--out", dropped, "--json"))
    for name, array in Run.open(dropped).model()[0].state_dict().items():
        assert array.tobytes() == before[name].tobytes(), name
    assert Run.open(dropped).groups == {}
    more = cli("train", "--resume", "--out", out, "--steps", 6)
    assert more.exit_code == 0, more.output
    assert np.array_equal(Run.open(out).model()[0].embedding.weight.data, before["embedding.weight"])
    assert cli("inspect", out).exit_code == 0


def test_a_second_domain_leaves_the_first_ones_experts_alone(cli, run, shout, tmp_path):
    two = tmp_path / "digits.txt"
    two.write_text("".join(f"{n * n} " for n in range(900)))
    options = ["--count", 1, "--steps", 2, "--json"]
    first = document(cli("experts", "add", run, "--text", shout, *options))["out"]
    second = document(cli("experts", "add", first, "--text", two, *options))
    made = Run.open(Path(second["out"]))
    assert dict(made.groups) == {"shout": ("*:4",), "digits": ("*:5",)}
    assert [domain.name for domain in made.corpus().domains] == ["words", "sums", "shout", "digits"]
    before, after = (Run.open(Path(of)).model()[0].state_dict() for of in (first, second["out"]))
    assert all(after[name][: len(array)].tobytes() == array.tobytes() for name, array in before.items())
    again = cli("train", "--from", first, "--steps", 1, "--out", tmp_path / "again", "--freeze", "*:0-3")
    assert again.exit_code == 0, again.output
    assert dict(Run.open(tmp_path / "again").groups) == {"shout": ("*:4",)}
    without = document(cli("experts", "drop", second["out"], "shout", "--json"))
    assert dict(Run.open(Path(without["out"])).groups) == {"digits": ("*:4",)}


@pytest.mark.parametrize("how", [["drop", "--by", "gate-mass"], ["merge"]])
def test_fewer_experts_are_a_run_that_goes_on(cli, run, how):
    command, *options = how
    found = document(cli("experts", command, run, *options, "--json"))
    out = found["out"]
    assert out == f"{run}-{'merged' if command == 'merge' else 'dropped'}"
    assert Run.open(run.with_name(out.rpartition("/")[2])).model_config.num_experts == 3
    assert found["loss_after"] != found["loss_before"]
    assert cli("generate", out, "the ", "--tokens", 3).exit_code == 0
    assert cli("inspect", out).exit_code == 0
    resumed = cli("train", "--resume", "--out", out)
    assert resumed.exit_code == 0, resumed.output


def test_frozen_experts_stay_frozen_under_their_new_numbers(cli, run, tmp_path):
    frozen, fewer = tmp_path / "frozen", tmp_path / "fewer"
    found = document(cli("experts", "freeze", run, "0:2", "*:3", "--out", frozen, "--json"))
    assert found["frozen"] == ["0:2-3", "1:3"]
    assert found["loss_before"] == found["loss_after"]
    document(cli("experts", "drop", frozen, "*:0", "--out", fewer, "--json"))
    assert Run.open(fewer).training_config.freeze == ("0:1-2", "1:2")
    before = Run.open(fewer).model()[0].state_dict()
    assert cli("train", "--resume", "--out", fewer).exit_code == 0
    after = Run.open(fewer).model()[0].state_dict()
    name = "layers.0.feed_forward.experts.down"
    assert [np.array_equal(before[name][e], after[name][e]) for e in range(3)] == [False, True, True]
    marks = [row["frozen"] for row in document(cli("experts", "list", fewer, "--json"))["experts"]]
    assert marks == [False, True, True, False, False, True]


def test_tables_of_changes_fit_80_columns(cli, run, shout):
    for command in (["drop", run, "*:1"], ["merge", run], ["freeze", run, "0:1"], ["add", run, "--text", shout]):
        more = ["--steps", "2"] if command[0] == "add" else []
        shown = cli("experts", *command, *more)
        assert shown.exit_code == 0, shown.output
        lines = [line for line in shown.stdout.splitlines() if str(run.parent) not in line]
        assert max(map(len, lines)) <= 80
        assert "nats/byte" in shown.stdout
        assert "change" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drop"], "name the experts to drop, or give --by gate-mass"),
        (["drop", "0:1", "--by", "load"], "not both"),
        (["drop", "--by", "size"], "--by must be one of gate-mass, contribution, load, got 'size'"),
        (["drop", "0:1"], "all layers need the same number of experts"),
        (["drop", "*:0-2"], "top_k must be between 1 and num_experts=1"),
        (["drop", "law"], "'law' is neither LAYER:EXPERTS, such as 0:3, nor a group"),
        (["merge", "--by", "size"], "--by must be one of outputs, weights, got 'size'"),
        (["merge", "--count", "3"], "3 pairs need 6 experts"),
        (["freeze"], "name the experts to freeze"),
        (["freeze", "0:9"], "experts of layer 0 are 0 to 3, got 9"),
        (["add", "--text", "nowhere"], "nowhere"),
        (["add", "--text", "run/config.json", "--count", "9"], "count must be between 1 and the 4 experts"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(refused, run, arguments, message):
    before = sorted(run.parent.rglob("*"))
    command, *rest = arguments
    assert message in refused("experts", command, run, *rest)
    assert sorted(run.parent.rglob("*")) == before


def test_an_existing_folder_is_not_overwritten(refused, run):
    assert "already holds a run" in refused("experts", "drop", run, "*:0", "--out", run)


def test_experts_that_cannot_be_switched_off(refused, run):
    assert "is neither LAYER:EXPERTS" in refused("generate", run, "x", "--without", "law")
    assert "top_k must be from 1 to the 1 experts that are left, got 2" in refused(
        "generate", run, "x", "--without", "*:0-2"
    )
