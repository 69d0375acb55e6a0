import csv
import gzip
import json

import pytest
from typer.testing import CliRunner

from benchmarks import published_routing
from benchmarks.published_routing import models
from moe_numpy.accounting.scaling_laws import PUBLISHED, Point

FIELDS = [
    "hyper_id", "step", "router_type", "num_experts", "k", "routing_frequency", "seed", "dense_parameter_count",
    "loss_validation",
]  # fmt: skip


def rows():
    """Models that obey the published laws, at two steps, and others that the paper's example leaves out."""
    number = 0
    for router in ("S-Base", "RL-R", "Hash", "Dense"):
        law = PUBLISHED[{"S-Base": "S-BASE", "Dense": "S-BASE"}.get(router, router)]
        for n in (15e6, 55e6, 130e6, 370e6):
            for experts in (1,) if router == "Dense" else (2, 8, 32, 128, 512):
                loss = float(law.loss([Point(n, 0.0, experts=experts)])[0])
                number += 1
                kept = dict(zip(FIELDS, (number, 100, router, experts, 1, 0.5, 42, n, loss), strict=True))
                yield kept | {"step": 0, "loss_validation": 10.0}
                yield kept
                for left_out in ({"k": 2}, {"routing_frequency": 1.0}, {"seed": 1}):
                    number += 1
                    yield kept | left_out | {"hyper_id": number, "loss_validation": 9.0}


@pytest.fixture
def curves(tmp_path):
    with gzip.open(tmp_path / "curves.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows())
    return tmp_path / "curves.csv.gz"


def run(*arguments):
    return CliRunner().invoke(published_routing.app, [str(a) for a in arguments], env={"COLUMNS": "80"})


def test_the_models_of_the_example_at_their_last_step(curves):
    found = list(models(curves, "RL-R"))
    assert len(found) == 5 * 4 + 4
    assert max(point.loss for point in found) < 4
    assert {point.experts for point in found} == {1, 2, 8, 32, 128, 512}


def test_published_coefficients_come_back(curves):
    result = run(curves, "--resamples", 2, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert list(document) == ["S-BASE", "RL-R", "Hash"]
    for row in document["S-BASE"]["coefficients"].values():
        assert row["fitted"] == pytest.approx(row["published"], rel=0.02)
    assert document["S-BASE"]["error"] < 1e-3


def test_as_a_table(curves):
    result = run(curves, "--resamples", 2)
    assert result.exit_code == 0, result.output
    assert "S-BASE, 24 models" in result.output
    assert max(map(len, result.output.splitlines())) <= 80


def plain(path):
    path.write_text("hyper_id,step\n")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def no_number(path):
    path.write_bytes(gzip.compress((",".join(FIELDS) + "\n1,1,Dense,1,?,0.5,42,1,1\n").encode()))


def no_column(path):
    path.write_bytes(gzip.compress(b"hyper_id,step\n1,1\n"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (plain, "Not a gzipped file"),
        (truncated, "is truncated or damaged"),
        (no_number, "k, routing_frequency, seed of model 1: could not convert string to float: '?'"),
        (no_column, "lacks the columns router_type, num_experts"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_wrong_files_are_refused(curves, damage, message):
    damage(curves)
    result = run(curves)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
