import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import scaling, scaling_sweep
from benchmarks.__main__ import app as bench
from benchmarks.scaling_fits import chosen, noise, other_rates
from benchmarks.scaling_sweep import SWEEPS, Model, Result
from moe_numpy.accounting import active_parameters, architecture_of
from moe_numpy.accounting.scaling_laws import PUBLISHED, Point
from moe_numpy.autodiff import NonFiniteError
from moe_numpy.files import with_checksum
from moe_numpy.training import Corpus, Domain, Trainer
from moe_numpy.training.lock import locked

TINY = scaling_sweep.Sweep(
    layers=1, d_head=8, context=8, batch_size=2, widths=(8, 16), experts=(1, 2), granularities=(1, 2),
    tokens=(32, 64), fixed_experts=2, fixed_tokens=32, seeds=(0, 1), rates=(2.0,),
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """A sweep of models that take no time, and a text to train them on."""
    rng = np.random.default_rng(0)
    text = Corpus([Domain("a", *rng.integers(97, 100, (2, 200)).astype(np.uint8))])
    monkeypatch.setitem(SWEEPS, "small", TINY)
    monkeypatch.setattr(scaling, "default_corpus", lambda: text)
    return TINY


def run(*arguments):
    return CliRunner().invoke(scaling.app, [str(a) for a in arguments], env={"COLUMNS": "80"})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def synthetic(name, law="krajewski", noise_of=1e-3):
    """The results of a sweep whose losses obey a published law."""
    sweep, rng = SWEEPS[name], np.random.default_rng(0)
    for model in sweep.models:
        n = sweep.parameters(model)
        point = Point(n, 0.0, model.tokens, model.experts, model.granularity)
        loss = float(PUBLISHED[law].loss([point])[0]) + noise_of * rng.normal()
        values = {"sweep": name, **{key: getattr(model, key) for key in Model.__dataclass_fields__}}
        values |= {"learning_rate": sweep.learning_rate(model), "parameters": n, "active": n, "total": n}
        values |= {"loss": loss, "domain_loss": [loss], "seconds": 1.0, "device": "cpu", "text": "t"}
        yield with_checksum(values)


def changed(line, **values):
    """A line with other values, whose checksum is right."""
    row = json.loads(line) | values
    row.pop("checksum")
    return json.dumps(with_checksum(row))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", list(SWEEPS))
def test_every_model_of_a_sweep_can_be_built(name):
    sweep = SWEEPS[name]
    assert len(set(sweep.models)) == len(sweep.models)
    for model in sweep.models:
        config = sweep.model_config(model)
        parts = active_parameters(architecture_of(config)).parts()
        assert sum(parts[part] for part in ("attention", "dense", "experts")) == sweep.parameters(model)
        training = sweep.training_config(model, "cpu")
        assert training.steps * training.batch_size * config.context == model.tokens
        assert 0 < training.warmup < training.steps / 8


def test_a_sweep_crosses_its_axes_where_they_are_fixed():
    models = {m for m in TINY.models if m.seed == 0 and m.rate == 1}
    assert {(m.d_model, m.experts) for m in models if m.granularity == 1} == {(8, 1), (8, 2), (16, 1), (16, 2)}
    assert all(m.experts == 2 for m in models if m.granularity == 2 or m.tokens == 64)
    assert {m.seed for m in TINY.models} == {0, 1}
    assert {m.d_model for m in TINY.models if m.rate == 2} == {8, 16}


def test_the_learning_rate_is_one_rule():
    narrow, wide = Model(32, 8, 1, 1), Model(128, 8, 1, 1)
    large = SWEEPS["large"]
    assert large.learning_rate(narrow) / large.learning_rate(wide) == pytest.approx(16**0.4)
    assert large.learning_rate(replace(wide, rate=2.0)) == pytest.approx(2 * large.learning_rate(wide))


def test_a_sweep_trains_prints_and_continues(tiny, tmp_path):
    path = tmp_path / "new" / "s.jsonl"
    first = run("--small", "--out", path)
    assert first.exit_code == 0, first.output
    assert "Held-out loss" in first.output
    assert first.output.count("not fitted: this law needs at least") == 2
    assert "Noise: " in first.output
    assert max(map(len, first.output.splitlines())) <= 80
    rows = lines(path)
    assert len(rows) == len(tiny.models)
    kept = "".join(line + "\n" for line in path.read_text().splitlines()[:5])
    path.write_text(kept)
    again = run("--small", "--out", path, "--json")
    assert again.exit_code == 0, again.output
    assert path.read_text().startswith(kept)
    repeated = lines(path)
    assert [row | {"seconds": 0, "checksum": 0} for row in repeated] == [
        r | {"seconds": 0, "checksum": 0} for r in rows
    ]
    document = json.loads(again.stdout)
    assert document["models"] == document["of"] == len(rows)
    assert again.stderr.count(" left\n") == len(rows) - 5


def test_nothing_is_trained_twice(tiny, tmp_path, monkeypatch):
    assert run("--small", "--out", tmp_path / "s.jsonl").exit_code == 0
    monkeypatch.setattr(scaling, "train", None)
    result = run("--small", "--out", tmp_path / "s.jsonl")
    assert result.exit_code == 0, result.output


def test_a_torn_last_line_is_trained_again(tiny, tmp_path):
    path = tmp_path / "s.jsonl"
    assert run("--small", "--out", path).exit_code == 0
    rows = lines(path)
    for cut in (-1, -30):  # only the newline, half a line
        path.write_text(path.read_text()[:cut])
        assert run("--small", "--out", path).exit_code == 0
        assert [row["loss"] for row in lines(path)] == [row["loss"] for row in rows]


QUICK = {"layers": 1, "widths": (8, 16), "tokens": (2**13, 2**14), "fixed_tokens": 2**13}
_SWEEP = f"""
import sys
from dataclasses import replace
import numpy as np
from benchmarks import scaling
from moe_numpy.training import Corpus, Domain
text = Corpus([Domain("a", *np.random.default_rng(0).integers(97, 100, (2, 20_000)).astype(np.uint8))])
scaling.default_corpus = lambda: text
scaling.SWEEPS["small"] = replace(scaling.SWEEPS["small"], **{QUICK})
scaling.app(["--small", "--out", sys.argv[1]], prog_name="scaling")
"""


def test_a_killed_sweep_keeps_what_is_finished(tmp_path, monkeypatch):
    path = tmp_path / "s.jsonl"
    monkeypatch.setitem(SWEEPS, "small", replace(SWEEPS["small"], **QUICK))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(scaling.__file__).parents[1]), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", _SWEEP, str(path)], env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and (not path.exists() or not path.read_bytes().count(b"\n")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert 1 <= len(scaling_sweep.finished(path, "small")) < len(SWEEPS["small"].models)


def test_a_signal_ends_a_sweep_and_says_how_to_continue(tiny, tmp_path, monkeypatch):
    path, plain, steps = tmp_path / "s.jsonl", Trainer.step, []

    def step(self):
        steps.append(self)
        if len(steps) == 7:  # not in the first model
            signal.raise_signal(signal.SIGTERM)
        return plain(self)

    monkeypatch.setattr(Trainer, "step", step)
    result = run("--small", "--out", path)
    assert result.exit_code == 128 + signal.SIGTERM
    assert f"note: stopped; finished models are in {path}, and the same command continues" in result.stderr
    assert 1 <= len(lines(path)) < len(tiny.models)


def test_laws_are_fitted_with_intervals_and_drawn(tmp_path):
    path = write(tmp_path / "s.jsonl", synthetic("large"))
    result = run("--no-train", "--out", path, "--resamples", 4, "--figure", tmp_path / "s.png", "--json")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "s.png").exists()
    document = json.loads(result.stdout)
    law = document["laws"]["krajewski"]
    assert law["error"] < 2e-3
    assert law["widest"]["error"] < 0.02 < law["widest"]["if_constant"]
    low, high = law["intervals"]["beta"]
    assert low <= law["coefficients"]["beta"] <= high
    assert document["laws"]["clark"]["widest"]["models"] == 6


def test_the_table_says_what_is_not_determined(tmp_path):
    """A straight line over log N has no α, and the law tends to it as α becomes 0."""
    rows = [(json.dumps(row), 5 - 0.3 * np.log10(row["parameters"])) for row in synthetic("large")]
    path = tmp_path / "s.jsonl"
    path.write_text("".join(changed(row, loss=float(loss)) + "\n" for row, loss in rows))
    result = run("--no-train", "--out", path, "--resamples", 0)
    assert result.exit_code == 0, result.output
    assert "* at the end of the range that was searched" in result.output
    assert max(map(len, result.output.splitlines())) <= 80


def test_part_of_a_sweep_is_fitted_and_said_to_be_part(tmp_path):
    path = write(tmp_path / "s.jsonl", list(synthetic("large"))[:6])
    result = run("--no-train", "--out", path)
    assert result.exit_code == 0, result.output
    assert "not fitted: this law needs at least" in result.output
    assert f"Only 6 of {len(SWEEPS['large'].models)} models are finished." in result.output


def test_which_models_a_law_is_about_and_what_seeds_and_rates_say():
    results = {r.model: r for r in (msgspec.convert(row, Result) for row in synthetic("large"))}
    assert {r.experts for r in chosen("krajewski", "large", results)} == {8}
    clark = chosen("clark", "large", results)
    assert {(r.granularity, r.tokens, r.rate) for r in clark} == {(1, 2**21, 1)}
    assert {r.experts for r in clark} == {1, 2, 4, 8, 16, 32}
    spread = noise(results)
    assert spread["models"] == 2
    assert 1e-4 < spread["deviation"] < 4e-3
    assert [(r["parameters"], r["rate"]) for r in other_rates(results)] == [
        (65536, 0.5), (65536, 2.0), (4194304, 0.5), (4194304, 2.0)
    ]  # fmt: skip


def test_a_spread_over_seeds_is_pooled():
    def result(width, seed, loss):
        model = Model(width, 1, 1, 32, seed)
        row = next(r for r in synthetic("large")) | {"d_model": width, "seed": seed, "loss": loss}
        return model, msgspec.convert(row, Result)

    found = noise(
        dict([result(8, 0, 1.0), result(8, 1, 1.2), result(16, 0, 3.0), result(16, 1, 3.2), result(32, 0, 9)])
    )
    assert found == {"models": 2, "deviation": pytest.approx(0.02**0.5)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [rows[0], "{", *rows[1:]], "line 2, is not JSON"),
        (lambda rows: [rows[0].replace('"loss": ', '"loss": 1')], "is not what its checksum was taken of"),
        (lambda rows: ['{"loss": 1}'], "is damaged, an entry is missing"),
        (lambda rows: [changed(rows[0], d_model=48)], "has no model"),
        (lambda rows: [changed(rows[0], learning_rate=1.0)], "has no model"),
        (lambda rows: [rows[0], changed(rows[1], text="u")], "on different texts"),
    ],
)
def test_damaged_results_are_refused_and_stay(tmp_path, change, message):
    rows = [json.dumps(row) for row in list(synthetic("large"))[:2]]
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join(change(rows)) + "\n")
    before = path.read_bytes()
    result = run("--no-train", "--out", path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert str(path) in result.stderr
    assert path.read_bytes() == before


def test_results_of_another_text_are_not_continued(tiny, tmp_path):
    path = write(tmp_path / "s.jsonl", list(synthetic("small"))[:2])
    result = run("--small", "--out", path)
    assert result.exit_code == 2
    assert "were trained on other text than this Python has" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "device must be one of cpu, cuda"),
        (
            ["--no-train", "--out", "missing.jsonl"],
            "--no-train needs finished models, and missing.jsonl does not exist",
        ),
        (["--resamples", -1], "--resamples"),
        (["--out", ""], "the path is empty"),
        (["anything"], "unexpected extra argument"),
    ],
)
def test_what_is_refused(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_one_sweep_at_a_time_and_fits_meanwhile(tmp_path):
    path = write(tmp_path / "s.jsonl", list(synthetic("large"))[:2])
    with locked(tmp_path):
        result = run("--out", path)
        assert result.exit_code == 2
        assert "is in use" in result.stderr
        assert run("--no-train", "--out", path).exit_code == 0


def test_an_empty_file_has_nothing_to_fit(tmp_path):
    (tmp_path / "s.jsonl").touch()
    result = run("--no-train", "--out", tmp_path / "s.jsonl")
    assert result.exit_code == 1
    assert "has no model of the large sweep" in result.stderr


def test_a_model_that_diverges_ends_the_sweep_with_its_name(tiny, tmp_path, monkeypatch):
    def diverge(self):
        raise NonFiniteError("the loss", "sum", "NaN")

    monkeypatch.setattr(Trainer, "step", diverge)
    result = run("--small", "--out", tmp_path / "s.jsonl")
    assert result.exit_code == 1
    assert "Model(d_model=8, experts=1" in result.stderr
    assert not (tmp_path / "s.jsonl").exists()


def test_bench_scaling_is_the_same_command(tmp_path):
    path = write(tmp_path / "s.jsonl", list(synthetic("large"))[:6])
    result = CliRunner().invoke(bench, ["scaling", "--no-train", "--out", str(path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["models"] == 6
    usage = CliRunner().invoke(bench, ["scaling", "--no-such"])
    assert usage.exit_code == 2
    assert "--no-such" in usage.stderr
