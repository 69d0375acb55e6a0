"""``train --recipe multimodal`` and what the other commands make of such a run."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from moe_numpy.__main__ import app
from moe_numpy.training import Run, pictures

SIZES = ["--d-model", "16", "--num-layers", "2", "--d-ff", "8", "--context", "24", "--batch-size", "2", "--steps", "4"]


@pytest.fixture(autouse=True, scope="module")
def _few_pictures():
    """As scikit-learn gives them, but fewer are held out."""
    rng = np.random.default_rng(0)
    found = SimpleNamespace(images=rng.integers(0, 17, (60, 8, 8)).astype(float), target=np.arange(60) % 10)
    pictures.digits.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sklearn", SimpleNamespace())
        patch.setitem(sys.modules, "sklearn.datasets", SimpleNamespace(load_digits=lambda: found))
        patch.setattr(pictures, "_HELD_OUT", 20)
        yield
    pictures.digits.cache_clear()


@pytest.fixture(scope="module")
def made(_few_pictures, tmp_path_factory):
    """A run, and what training it printed."""
    folder = tmp_path_factory.mktemp("multimodal")
    (folder / "words.txt").write_text("the cat sat on the mat, and the dog did not. " * 60)
    (folder / "sums.txt").write_text("".join(f"{a} + {b} = {a + b}\n" for a in range(20) for b in range(20)))
    text = ["--text", str(folder / "words.txt"), "--text", str(folder / "sums.txt")]
    arguments = ["train", "--recipe", "multimodal", *SIZES, *text, "--out", str(folder / "run")]
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return folder / "run", result.stdout


@pytest.fixture
def run(made):
    shutil.copytree(made[0], "run")
    return made[1]


def test_training_shows_both_losses_the_pictures_and_the_loads(run):
    assert "Pictures: 40 with captions, 20 held out" in run
    assert "of 20 held-out ones get the right caption" in run
    assert "which experts take text and which take patches" in run
    steps = [line for line in run.splitlines() if "captions" in line and "step" in line]
    assert len(steps) == 4
    assert max(map(len, steps)) <= 80
    found = Run.open(Path("run"))
    assert found.model_config.image_size == 8
    assert found.training_config.image_batch_size == 12
    assert found.summary()["pictures"]["pictures"] == 20


@pytest.mark.usefixtures("run")
def test_text_is_generated_and_needs_no_pictures(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = cli("generate", "run", "the ", "--tokens", "8", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)


@pytest.mark.usefixtures("run", "drawn")
def test_inspect_shows_pictures_and_draws_modalities(cli):
    document = json.loads(cli("inspect", "run", "--json").stdout)
    summary = Run.open(Path("run")).summary()["pictures"]
    assert document["pictures"]["accuracy"] == summary["accuracy"]
    np.testing.assert_allclose(document["pictures"]["caption_loss"], summary["caption_loss"], rtol=1e-6)
    loads = {name: np.array(found) for name, found in document["pictures"]["load_by_modality"].items()}
    assert loads["text"].shape == loads["image"].shape == (2, 12)
    assert not loads["text"][:, 8:].any()
    assert not loads["image"][:, :8].any()
    assert Path("run/expert_by_modality.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("run")
def test_a_run_continues_with_its_pictures(cli, refused):
    assert cli("train", "--resume", "--out", "run", "--steps", "5").exit_code == 0
    assert Run.open(Path("run")).history()[-1]["caption_loss"] > 0
    assert cli("train", "--from", "run", "--steps", "2", "--out", "further").exit_code == 0
    assert Run.open(Path("further")).history()[-1]["caption_loss"] > 0
    assert "in pools, one per modality" in refused("experts", "list", "run")
    assert "--pools shared (the run has separate)" in refused("train", "--resume", "--out", "run", "--pools", "shared")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "multimodal", "--pools", "apart"], "pools must be separate, mixed or shared, got 'apart'"),
        (["--pools", "shared"], "recipe mixtral has no setting pools"),
        (["--recipe", "multimodal", "--device", "cuda"], "pictures are trained on with device cpu"),
        (["--recipe", "multimodal", "--num-experts", "4"], "the text pool (0, -4) of num_experts=4 has no experts"),
        (["--recipe", "multimodal", "--context", "20"], "context must be at least 24, a picture and its caption"),
    ],
)
def test_what_does_not_go_together_is_refused(refused, arguments, words):
    assert words in refused("train", *arguments, "--out", "run")
    assert not Path("run").exists()


def test_without_scikit_learn_nothing_is_left_behind(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    pictures.digits.cache_clear()
    assert "python -m pip install scikit-learn" in refused("train", "--recipe", "multimodal", "--out", "run")
    assert not Path("run").exists()
