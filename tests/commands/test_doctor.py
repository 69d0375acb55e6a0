import json

import numpy as np
from typer.testing import CliRunner

from moe_numpy.__main__ import app


def test_doctor_names_the_library_and_the_loops():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for word in ("processor", "NumPy", np.__version__, "GFLOP/s", "numba", "CuPy", "loops"):
        assert word in result.output


def test_doctor_as_json():
    report = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert report["numpy"] == np.__version__
    assert report["gflops"] > 0
    assert report["kernels"] in ("on_numba", "on_numpy")
    assert isinstance(report["advice"], list)
