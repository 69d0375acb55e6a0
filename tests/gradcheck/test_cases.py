import gc
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from moe_numpy.autodiff import Function, substitute
from moe_numpy.gradcheck import cases
from moe_numpy.gradcheck.cases import Case, case, run_case
from moe_numpy.gradcheck.point import Point


class Double(Function):
    def forward(self, x):
        return 2 * x

    def backward(self, grad):
        return 2 * grad


class Triple(Double):
    def forward(self, x):
        return 3 * x

    def backward(self, grad):
        return 3 * grad


@pytest.fixture
def registry(monkeypatch):
    """An empty registry, without the modules beside it."""
    empty = {}
    monkeypatch.setattr(cases, "_cases", empty)
    monkeypatch.setattr(cases, "__path__", [])
    return empty


def double(rng):
    return lambda x: Double.apply(x), [rng.standard_normal(3)]


def test_case_is_registered_under_the_name_of_the_function(registry):
    assert case(Double)(double) is double
    (found,) = cases.all_cases()
    assert found == Case("double", (Double,), double)


def test_case_name_can_be_given(registry):
    case(Double, name="twice")(double)
    assert [c.name for c in cases.all_cases()] == ["twice"]


def test_two_cases_of_one_name_are_refused(registry):
    case(Double)(double)
    with pytest.raises(ValueError, match="two gradient cases are called 'double'"):
        case(Triple, name="double")(double)


def test_case_needs_functions():
    with pytest.raises(TypeError, match="name at least one Function"):
        case()
    with pytest.raises(TypeError, match="Function"):
        case(int)


def test_sibling_modules_are_imported(registry, monkeypatch, tmp_path):
    (tmp_path / "extra_cases.py").touch()
    imported = []
    monkeypatch.setattr(cases, "__path__", [str(tmp_path)])
    monkeypatch.setattr(cases.importlib, "import_module", imported.append)
    cases.all_cases()
    assert imported == ["moe_numpy.gradcheck.cases.extra_cases"]


def test_run_case_passes_and_is_repeatable():
    one, two = (run_case(Case("double", (Double,), double), seed=3) for _ in range(2))
    assert one.passed
    assert one == two
    assert one.compared == 3


def test_run_case_uses_the_seed():
    seen = []

    def build(rng):
        seen.append(rng.standard_normal())
        return double(rng)

    for seed in (0, 1):
        run_case(Case("double", (Double,), build), seed)
    assert seen[0] != seen[1]


def test_case_that_never_applies_its_function_fails():
    report = run_case(Case("lazy", (Double, Triple), double))
    assert not report.passed
    assert report.problems == ["the case lazy claims to cover Triple but never applied it"]


def test_subclass_does_not_count_as_its_base():
    def build(rng):
        return lambda x: Triple.apply(x), [rng.standard_normal(3)]

    assert not run_case(Case("triple", (Double,), build)).passed
    assert run_case(Case("triple", (Triple,), build)).passed


def test_error_in_a_case_becomes_a_failing_report():
    class Broken(Double):
        def backward(self, grad):
            return grad[:2]

    def build(rng):
        return lambda x: Broken.apply(x), [rng.standard_normal(3)]

    report = run_case(Case("broken", (Broken,), build))
    assert not report.passed
    assert "RuntimeError: Broken.backward: the gradient of input 0 has shape (2,)" in str(report)


def test_notes_of_an_error_are_kept():
    class Raising(Double):
        def backward(self, grad):
            raise ZeroDivisionError("of all things")

    def build(rng):
        return lambda x: Raising.apply(x), [rng.standard_normal(3)]

    assert "ZeroDivisionError: of all things\nin Raising.backward" in str(run_case(Case("r", (Raising,), build)))


def test_case_checks_the_substitute_in_force():
    class Wrong(Double):
        def backward(self, grad):
            return -2 * grad

    with substitute(Double, Wrong):
        report = run_case(Case("double", (Double,), double))
    assert "the sign is flipped" in str(report)
    assert run_case(Case("double", (Double,), double)).passed


def test_registered_functions_are_those_of_the_package():
    names = {"Public": "moe_numpy.made_up", "_Helper": "moe_numpy.made_up", "Learner": "exercises.softmax"}
    made = {name: type(name, (Function,), {"__module__": where}) for name, where in names.items()}
    sub = type("PublicToo", (made["Public"],), {"__module__": "moe_numpy.made_up"})
    found = cases.registered_functions()
    assert made["Public"] in found
    assert sub in found
    assert made["_Helper"] not in found
    assert made["Learner"] not in found
    assert Double not in found
    assert all(f.__module__.startswith("moe_numpy.") for f in found)
    assert found == sorted(found, key=lambda f: (f.__module__, f.__qualname__))
    del made, sub, found
    gc.collect()  # so that no other test sees them


def test_every_module_is_imported_but_commands():
    cases.registered_functions()
    assert "moe_numpy.ops.activations" in sys.modules
    assert "moe_numpy.nn.module" in sys.modules


def test_the_library_alone_is_enough():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = project["optional-dependencies"]
    extras = {re.match(r"[\w-]+", each)[0].replace("-", "_") for name in parts if name != "dev" for each in parts[name]}
    assert {"jinja2", "starlette", "mpi4py", "jupyter"} < extras
    missing = sorted(extras - {"scikit_learn"} | {"sklearn", "cupy", "IPython", "pytest"})
    code = f"import sys; sys.modules.update(dict.fromkeys({missing}))"  # importing one of them fails
    code += "; from moe_numpy.gradcheck import cases; print(cases.functions_without_case())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_functions_without_case(registry, monkeypatch):
    monkeypatch.setattr(cases, "registered_functions", lambda: [Double, Triple])
    case(Double)(double)
    assert cases.functions_without_case() == [Triple]


@pytest.mark.parametrize("name", [c.name for c in cases.all_cases()])
def test_every_case_runs_forward_and_backward_with_shape_checks(name):
    (chosen,) = (c for c in cases.all_cases() if c.name == name)
    f, inputs = chosen.build(np.random.default_rng(0))
    gradients = Point(f, inputs, [f"input {i}" for i in range(len(inputs))], np.random.default_rng(1)).gradients()
    assert [g is None or g.shape == x.shape for g, x in zip(gradients, inputs, strict=True)] == [True] * len(inputs)
