"""What runs in the child, run here."""

import numpy as np
import pytest

from exercises.exercise import case, reference_to
from exercises.grading import child
from exercises.grading import outcome as outcomes
from exercises.training.child import Training
from moe_numpy.models import ModelConfig


def setup(source="", reference=None):
    return {"source": source, "file": "mine.py", "attribute": "f", "reference": reference, "preload": [], "answer": []}


def checking(source, *cases):
    return child.Checking(setup(source))({"run": "exercises.drivers:call", "cases": list(cases), "timed": False})


def test_each_case_has_an_outcome():
    answer = checking("def f(x): return x + 1", case(1), case(2))
    assert [o["value"] for o in answer["outcomes"]] == [2, 3]


def test_the_solution_is_loaded_anew_for_each_request():
    task = child.Checking(setup("n = []\ndef f():\n    n.append(1)\n    return len(n)"))
    request = {"run": "exercises.drivers:call", "cases": [case(), case()], "timed": False}
    assert [o["value"] for o in task(request)["outcomes"]] == [1, 2]
    assert [o["value"] for o in task(request)["outcomes"]] == [1, 2]


@pytest.mark.parametrize("source", ["def f(: pass", "raise SystemExit(3)", "g = 1"])
def test_a_file_that_cannot_be_loaded(source):
    assert checking(source, case())["load_error"]["type"] in ("SyntaxError", "SystemExit", "NameError")


def test_trusted_code_is_loaded_by_its_name():
    assert child.load(setup(reference="moe_numpy.autodiff.graph:undo_broadcasting")).__name__ == "undo_broadcasting"


def test_changed_names_are_noticed(monkeypatch):
    snapshot = child.Snapshot()
    assert snapshot.changes() == []
    monkeypatch.setattr(np, "allclose", None)
    monkeypatch.setattr(outcomes, "run_case", None)
    assert snapshot.changes() == ["numpy.allclose", "exercises.grading.outcome.run_case"]


def test_mutation_exceptions_and_warnings_are_part_of_the_outcome():
    def f(solution, x):
        x[0] = np.float64(1) / np.zeros(1)[0]

    outcome = outcomes.run_case(f, None, case(np.ones(3)))
    assert outcome.mutated == [0]
    assert outcome.warnings == ["RuntimeWarning: divide by zero encountered in scalar divide"]
    assert outcomes.run_case(f, None, case(3)).error["type"] == "TypeError"


def test_only_top_level_code_has_a_name():
    with pytest.raises(TypeError, match="top level"):
        reference_to(lambda: 0)


@pytest.fixture
def _tiny_demo(monkeypatch):
    from moe_numpy.training import TrainingConfig, presets

    model = ModelConfig(d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, context=16, d_ff=8, num_experts=4)
    training = TrainingConfig(steps=3, batch_size=2, warmup=1)
    monkeypatch.setattr(presets, "demo", lambda **given: (model, training))


@pytest.mark.usefixtures("_tiny_demo")
def test_training_reports_losses_calls_and_errors():
    library = {"target": "moe_numpy.kernels.sorting:top_k", "label": "11", "source": "", "file": ""}
    common = {"steps": 3, "seed": 0, "recipe": "mixtral"}
    training = Training(common | {"functions": [library]})
    answer = training({"steps": 1})
    training.stack.close()
    assert len(answer["losses"]) == 1
    assert answer["calls"]["11"] > 0
    broken = setup("def f(scores, k):\n    return 1 / 0") | {"target": library["target"], "label": "11"}
    training = Training(common | {"functions": [broken]})
    error = training({"steps": 1})["error"]
    training.stack.close()
    assert (error["type"], error["line"], error["file"]) == ("ZeroDivisionError", 2, "mine.py")
