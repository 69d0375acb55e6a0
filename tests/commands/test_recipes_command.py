import json
from functools import cache, partial

import pytest
from unchecked_shapes import unchecked_shapes

from moe_numpy.autodiff import Function
from moe_numpy.commands import recipes as command
from moe_numpy.instruments.batch_dependence import batch_dependence
from moe_numpy.instruments.causality import Causality, causality
from moe_numpy.instruments.gradient_paths import gradient_paths
from moe_numpy.instruments.influence import influence
from moe_numpy.moe import Recipe, RouterConfig
from moe_numpy.moe.balancers import Balancer
from moe_numpy.moe.gates import Gate, Scale
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.selection import Selection, TopK


@pytest.fixture(autouse=True)
def _few_probes(monkeypatch):
    @cache
    def once(*arguments, **settings):
        with unchecked_shapes():
            return influence(*arguments, **settings)

    for module in ("causality", "batch_dependence"):
        monkeypatch.setattr(f"moe_numpy.instruments.{module}.influence", once)
    monkeypatch.setattr(command, "causality", partial(causality, seeds=1))
    monkeypatch.setattr(command, "batch_dependence", partial(batch_dependence, seeds=1))
    monkeypatch.setattr(command, "gradient_paths", partial(gradient_paths, seeds=2))


@pytest.fixture
def unprobed(monkeypatch):
    monkeypatch.setattr(command, "causality", lambda recipe, num_experts: Causality(None, None, True, 1))


def row(output, start):
    """The words of the one line that starts so."""
    (line,) = [line for line in output.splitlines() if line.strip().startswith(start)]
    return " ".join(line.split())


@pytest.mark.parametrize(("columns", "papers"), [("80", False), ("120", True)])
@pytest.mark.usefixtures("unprobed")
def test_the_table_fits(cli, monkeypatch, columns, papers):
    monkeypatch.setenv("COLUMNS", columns)
    result = cli("recipes")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert "…" not in result.stdout
    names = [line.split()[0] for line in lines if line[:1].strip() and line.split()[0] in RECIPES]
    assert names == list(RECIPES)
    words = {word for name in names for word in RECIPES[name].paper.replace("-", " ").split()}
    missing = {word for word in words if word not in result.stdout}
    assert ("Lepikhin" in missing) != papers
    assert not (papers and missing)
    assert ("with its paper" in result.stdout) != papers


def test_rows_are_made_of_the_recipes(cli, monkeypatch):
    shown = ["switch", "sinkhorn", "expert_choice", "qwen2_moe", "deepseek_v3", "deepseek_v4", "remoe"]
    monkeypatch.setattr(command, "RECIPES", {name: RECIPES[name] for name in shown})
    out = cli("recipes").stdout
    assert row(out, "switch") == "switch 2021 top-1 softmax balance 1.25 yes -"
    assert row(out, "sinkhorn") == "sinkhorn 2022 Sinkhorn, sigmoid - - eval -"
    assert row(out, "expert_choice") == "expert_choice 2022 experts softmax - 2 no -"
    assert row(out, "qwen2_moe") == "qwen2_moe 2024 top-4 softmax balance - yes 4 gated"
    assert row(out, "deepseek_v3") == "deepseek_v3 2024 top-8 of 4/8 sigmoid, bias, - yes 1"
    assert row(out, "deepseek_v4") == "deepseek_v4 2026 top-6 √softplus, bias, - yes 1"
    assert row(out, "remoe") == "remoe 2024 above 0 relu adaptive L1 - yes -"


@pytest.mark.parametrize(
    ("name", "selection", "gates", "balance"),
    [
        ("gshard", "top-2, 2nd random", "softmax, normalised", "balance"),
        ("deepseek_v3", "top-8 of 4/8 groups", "sigmoid, normalised, ×2.5", "bias, balance"),
        ("llama4", "top-1", "sigmoid, on input", "balance"),
        ("gpt_oss", "top-4", "softmax of chosen", "balance"),
        ("mixture_of_depths", "experts choose", "logit", "-"),
        ("soft_moe", "none, 4 slots", "softmax", "-"),
        ("hierarchical", "all, 2 levels", "softmax", "-"),
        ("longcat", "top-12, 256 zero", "softmax, ×6", "bias"),
        ("quantile", "top-2", "softmax, normalised", "quantile"),
    ],
)
def test_parts_in_a_few_words(name, selection, gates, balance):
    recipe = RECIPES[name]()
    assert command._selection(recipe) == selection
    assert command._gates(recipe.router) == gates
    assert command._balance(recipe.router) == balance


def test_all_as_json(cli, monkeypatch):
    monkeypatch.setattr(command, "RECIPES", {name: RECIPES[name] for name in ("gshard", "base", "soft_moe", "dbrx")})
    rows = {row["name"]: row for row in json.loads(cli("recipes", "--json").stdout)["recipes"]}
    assert list(rows) == ["gshard", "base", "soft_moe", "dbrx"]
    modes = {name: (row["causal_in_training"], row["causal_in_evaluation"]) for name, row in rows.items()}
    assert modes == {
        "gshard": (False, False),
        "base": (False, True),
        "soft_moe": (False, False),
        "dbrx": (True, True),
    }
    assert rows["gshard"]["capacity"] == 1.0
    assert rows["soft_moe"]["capacity"] is None
    assert rows["dbrx"]["paper"].startswith("Databricks")


def test_one_in_detail(cli):
    result = cli("recipes", "deepseek_v3")
    out = result.stdout
    assert result.exit_code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "s = σ(h); chosen by s + b" in out
    assert row(out, "selection") == "selection GroupLimited(k=8, num_groups=8, top_groups=4)"
    assert row(out, "gates") == "gates Gate(Renormalize, epsilon=1e-20), Scale(2.5)"
    assert row(out, "balancer") == "balancer LossFreeBias(rate=0.001)"
    assert row(out, "scale") == "scale 2.5"
    assert row(out, "task ") == "task 100 % - 0 % weight"
    assert "balance 100 % - 100 % weight" in " ".join(out.split())
    assert row(out, "constant") == "constant selection, counts, positions"
    assert row(out, "balancing state") == "balancing state receives no gradient; it changes the choice"
    assert row(out, "a later token") == "a later token no no"


def test_a_router_that_cannot_learn_is_named(cli):
    out = cli("recipes", "hash").stdout
    assert row(out, "task ") == "task 0 % - 0 % nothing"
    assert row(out, "dead") == "dead gate weights"
    assert row(out, "router") == "router learns nothing from the task"
    assert "Finite differences agree.\n" in out


def test_leaks_are_shown_with_the_pair(cli):
    out = cli("recipes", "gshard").stdout
    assert row(out, "a later token").startswith("a later token yes: ")
    assert "The selection alone is causal" in out
    assert "one of another sequence  yes: 0:" in out or "one of another sequence  yes: 1:" in out


def test_markup_of_docstrings_is_not_shown(cli):
    out = cli("recipes", "jacobs_1991").stdout
    assert "a likelihood, MixtureLikelihood, not" in " ".join(out.split())
    assert ":class:" not in out
    assert row(out, "gates") == "gates the scores as they are"
    assert row(out, "none") == "none"


def test_a_layer_without_router(cli):
    out = cli("recipes", "soft_moe").stdout
    assert row(out, "task ") == "task 100 % - - phi"
    assert "Constant" not in out


def test_two_levels_are_told_apart(cli):
    out = cli("recipes", "hierarchical").stdout
    assert row(out, "task, groups").endswith("weight")
    assert row(out, "task, experts").endswith("weight")


def test_detail_as_json(cli):
    document = json.loads(cli("recipes", "longcat", "--json").stdout)
    assert document["configuration"]["zero_experts"] == "256"
    assert document["settings"]["top_k"] == 12
    assert document["probed_with"]["num_experts"] == 16
    assert document["gradient_paths"]["task_reaches_router"]
    assert document["causality"]["causal"]
    assert document["batch_dependence"]["independent"]


def test_an_unknown_name_gets_the_nearest(refused):
    assert refused("recipes", "mixtrl").startswith("no recipe is called 'mixtrl'; did you mean mixtral")


def test_a_recipe_of_ones_own(cli, refused, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from moe_numpy.moe import RouterConfig\n"
        "from moe_numpy.moe.selection import TopK\n"
        "def mine(*, top_k=2):\n"
        "    'Mine.'\n"
        "    return RouterConfig(TopK(top_k))\n"
        "def many(): return RouterConfig(TopK(20))\n"
    )
    out = cli("recipes", "own.py:mine").stdout
    assert out.startswith(f"{own}:mine\n\n  Mine.")
    assert row(out, "top_k") == "top_k 2"
    document = json.loads(cli("recipes", "own.py:mine", "--json").stdout)
    assert (document["year"], document["paper"]) == (None, str(own))
    assert refused("recipes", "own.py:many") == "top_k must be between 1 and num_experts=16, got 20\n"
    assert "there is no file" in refused("recipes", "none.py:mine")


class OwnSelection(Selection):
    pass


class OwnGate(Function):
    pass


class OwnBalancer(Balancer):
    pass


def test_parts_of_ones_own_go_by_their_names():
    router = RouterConfig(OwnSelection(), gates=(Gate(OwnGate),), balancer=OwnBalancer())
    assert command._selection(Recipe(router)) == "OwnSelection"
    assert command._gates(router) == "softmax, OwnGate"
    assert command._balance(router) == "OwnBalancer"
    assert command._gates(RouterConfig(TopK(2), scores=None, gates=(Scale(2.0),))) == "×2"


def test_logits_without_scores_are_called_so():
    shown = dict(command._configuration(Recipe(RouterConfig(TopK(2), scores=None))))
    assert shown["scores"] == "the logits themselves"
    assert shown["gates"] == "Gate(Renormalize)"
