import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks import placement


def run(*arguments):
    app = typer.Typer()
    app.command()(placement.main)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "130"})


def test_rows_of_a_shape():
    result = run("--draws", "6", "--shape", "6,2,4", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert row["shape"] == [6, 2, 4]
    assert 1 <= row["bound"] <= row["ours"] * (1 + 1e-9)
    assert row["ours_attained"] <= row["attainable"] <= row["draws"] == 6
    assert row["eplb_matched_moves"] <= row["eplb_moves"]


def test_the_tables():
    result = run("--draws", "3", "--shape", "6,2,4", "--shape", "3,1,3")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "Largest over mean load of a rank, 3 draws: mean, and the worst" in lines
    assert [line.split("  ")[0] for line in lines if line[0:1].isdigit()] == 2 * ["6, 2, 4", "3, 1, 3"]


@pytest.mark.parametrize("text", ["6,2", "a,b,c", "6,1,4", "6,-2,-4"])
def test_no_shape(text):
    result = run("--shape", text)
    assert result.exit_code == 2
    assert "shape must be" in result.output
    assert repr(text) in result.output


def test_eplb_by_hand():
    """Experts 0 and 1 get the two further slots; the heaviest slots go to the least loaded ranks."""
    assert placement.eplb(np.array([6, 4, 2, 1]), 3, 2) == [[0, 1], [0, 3], [1, 2]]
    assert placement.eplb(np.array([9, 1]), 2, 2) == [[0, 0], [0, 1]]
    assert placement.largest(np.array([9, 1]), [[0, 0], [0, 1]]) == 6
