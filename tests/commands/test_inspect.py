import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from moe_numpy.training import Run

FIGURES = [
    "expert_by_domain", "expert_by_byte", "expert_by_position", "expert_load", "co_activation", "explained_by_layer",
    "load_over_training", "sentence_routing",
]  # fmt: skip
FIGURES = [f"{name}.png" for name in FIGURES]


@pytest.fixture
def run(trained):
    shutil.copytree(trained, "run")
    return Path("run")


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("moe_numpy.commands.inspect.save_inspect_figures", lambda *a: [])


@pytest.mark.usefixtures("drawn")
def test_json_is_one_document_with_every_table(cli, run):
    for name in FIGURES:
        (run / name).unlink(missing_ok=True)
    document = json.loads(cli("inspect", run, "--sentence", "1 + 1", "--json").stdout)
    assert document["step"] == 6
    assert document["layers"] == [0, 1]
    assert document["domains"] == ["words", "sums"]
    summary = Run.open(run).summary()
    assert document["domain_expert_by_layer"] == summary["domain_expert_by_layer"]
    assert document["expert_load"] == summary["expert_load"]
    np.testing.assert_allclose(np.sum(document["byte_class_expert_by_layer"], axis=2), 1)
    assert document["byte_classes"] == [
        "lower case",
        "digits",
        "space",
        "newline",
        "operators",
        "punctuation",
    ]
    assert bytes(document["sentence"]["bytes"]) == b"1 + 1"
    assert np.shape(document["sentence"]["first_choice_by_layer"]) == (2, 5)
    for expert in document["typical_bytes_by_layer"][0]:
        assert all(found["lift"] > 1 and found["count"] >= 20 for found in expert)
    assert [Path(figure).name for figure in document["figures"]] == FIGURES
    assert all((run / name).read_bytes().startswith(b"\x89PNG") for name in FIGURES)


@pytest.mark.usefixtures("no_figures")
def test_a_page_holds_the_sentence_and_windows_of_each_domain(cli, refused, run):
    document = json.loads(cli("inspect", run, "--html", "page.html", "--sentence", "1 + 1", "--json").stdout)
    assert document["html"] == "page.html"
    page = Path("page.html").read_text("utf-8")
    held = json.loads(page.split('id="saved">')[1].split("</script>")[0])
    sentence, *windows = held["texts"]
    first = [[token["experts"][i][0] for token in sentence["tokens"]] for i in range(2)]
    assert first == document["sentence"]["first_choice_by_layer"]
    assert "".join(token["token"] for token in sentence["tokens"]) == "1 + 1"
    assert [text["name"] for text in windows if text["name"].endswith(" 1")] == ["words 1", "sums 1"]
    assert [layer["num_experts"] for layer in held["model"]["layers"]] == [4, 4]
    assert "src=" not in page
    assert "--html: no/page.html cannot be written: there is no folder no" in refused(
        "inspect", run, "--html", "no/page.html"
    )


@pytest.mark.usefixtures("no_figures")
def test_tables_fit_80_columns_and_name_what_they_show(cli, run):
    result = cli("inspect", run, "--sentence", "cat 12\n")
    assert result.exit_code == 0
    assert all(len(line.rstrip()) <= 80 for line in result.stdout.splitlines() if ".png" not in line)
    for title in (
        "what explains the first choice", "which position in the window", "chosen together more often",
        "Layer 0: which experts take which domain", "Layer 1: which experts take which domain",
        "which kind of byte", "the most typical bytes of each expert", "Load while training, steps 1 to 6",
        "First-choice expert of each byte (\\ is newline)", "fair share 25.0",
    ):  # fmt: skip
        assert title in result.stdout
    assert "cat 12\\" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.usefixtures("no_figures")
def test_the_routing_under_the_sentence_is_that_of_the_document(cli, run):
    lines = cli("inspect", run, "--sentence", "cat 12").stdout.splitlines()
    document = json.loads(cli("inspect", run, "--sentence", "cat 12", "--json").stdout)
    at = next(i for i, line in enumerate(lines) if line.strip() == "cat 12")
    for layer, first in enumerate(document["sentence"]["first_choice_by_layer"]):
        assert lines[at + 1 + layer].split() == ["layer", str(layer), "".join(map(str, first))]


@pytest.mark.usefixtures("no_figures")
def test_one_layer_on_request(cli, run):
    result = cli("inspect", run, "--layer", 1)
    assert "Layer 1: which experts take which domain" in result.stdout
    assert "Layer 0" not in result.stdout
    assert "layer 0" not in result.stdout


@pytest.mark.usefixtures("no_figures")
def test_other_text_and_less_of_it(cli, run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("no more than this")
    document = json.loads(cli("inspect", run, "--text", "other", "--json").stdout)
    assert (document["domains"], document["tokens"]) == (["other"], 17)
    document = json.loads(cli("inspect", run, "--tokens", 40, "--json").stdout)
    assert document["domains"] == ["words", "sums"]
    assert 30 <= document["tokens"] <= 40


def test_figures_go_elsewhere_on_request(cli, run):
    (run / "expert_load.png").unlink()
    document = json.loads(cli("inspect", run, "--out", "pngs", "--json").stdout)
    assert document["figures"] == [f"pngs/{name}" for name in FIGURES]
    assert not (run / "expert_load.png").exists()


@pytest.mark.usefixtures("no_figures")
def test_many_experts_take_several_tables_and_letters(cli, tiny, monkeypatch):
    monkeypatch.setattr("moe_numpy.commands.train.save_run_figures", lambda run, summary: [])
    arguments = ["24" if a == "4" else a for a in tiny]
    cli(*arguments, "--capacity-factor", 0.3, "--top-k", 1, "--out", "wide")
    result = cli("inspect", "wide")
    assert result.exit_code == 0, result.output
    assert all(len(line.rstrip()) <= 80 for line in result.stdout.splitlines())
    assert "(\\ is newline; a is 10, A 36; . was full)" in result.stdout


@pytest.mark.usefixtures("no_figures")
def test_a_default_sentence_longer_than_the_context_is_cut(cli, run):
    document = json.loads(cli("inspect", run, "--json").stdout)
    assert len(document["sentence"]["bytes"]) == 16


def test_refusals(cli, refused, run, tiny):
    assert "--layer must be one of the layers with experts, [0, 1], got 2" in refused("inspect", run, "--layer", 2)
    assert "1 to context=16 tokens, got 17" in refused("inspect", run, "--sentence", "a" * 17)
    assert "got 0" in refused("inspect", run, "--sentence", "")
    assert "no checkpoint of step 1" in refused("inspect", run, "--step", 1)
    words = Path(Run.open(run).text[0])
    moved = words.rename(words.with_suffix(".moved"))
    try:
        assert "words.txt: does not exist" in refused("inspect", run)
    finally:
        moved.rename(words)


def test_a_dense_run_is_refused(cli, refused, tiny, monkeypatch):
    monkeypatch.setattr("moe_numpy.commands.train.save_run_figures", lambda run, summary: [])
    arguments = [a for a in tiny if a not in ("--num-experts", "4")]
    assert cli(*arguments, "--dense", "--out", "dense").exit_code == 0
    assert "is dense: it has no experts to inspect" in refused("inspect", "dense")
