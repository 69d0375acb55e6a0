import numpy as np
import pytest

from moe_numpy.accounting.exchange_costs import predicted, shares
from moe_numpy.parallel import Alone
from moe_numpy.parallel.parts import run_parts
from moe_numpy.training import Trainer, TrainingConfig, load_corpus, presets
from moe_numpy.training.evaluation import evaluate
from moe_numpy.training.ranks import Ranks


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    text = tmp_path_factory.mktemp("text") / "words.txt"
    text.write_text("the cat sat on the mat, and the dog did not. " * 40)
    return load_corpus([str(text)], 8)


def trained(corpus, recipe="mixtral", num_ranks=2, across=None, num_experts=8, layers=1, rebalance=None, **settings):
    """The ledger of a step and a validation on ranks, of which the first has most sequences, in this process."""
    sizes = {"d_model": 8, "num_heads": 2, "num_kv_heads": 1, "d_ff": 8, "context": 8}
    model = presets.model({}, recipe=recipe, num_layers=layers, num_experts=num_experts, **sizes)
    config = TrainingConfig(**{"steps": 1, "warmup": 0, "batch_size": 3, **settings})

    def work(communicator):
        ranks = Ranks(communicator, experts_across=across)
        trainer = Trainer(model, config, corpus, ranks=ranks)
        trainer.step()
        if rebalance is not None:
            trainer.place_by_load(rebalance)
        windows = corpus.validation_windows(8, limit=3)
        evaluate(trainer.model, windows, len(corpus.domains), batch_size=4, ranks=ranks)
        return ranks.ledger(1)

    return run_parts(Alone(), num_ranks, work)


def require_agreement(ledger):
    expected = predicted(ledger.tally, ledger.num_ranks)
    sent = {kind: np.array(matrix) for kind, matrix in ledger.sent.items() if np.any(matrix)}
    assert {kind: matrix.tolist() for kind, matrix in sent.items()} == {
        kind: matrix.tolist() for kind, matrix in expected.items()
    }


# every kind of noise, selection, loss and layer that changes what is sent
@pytest.mark.parametrize(
    "recipe",
    ["hierarchical", "shazeer_2017", "vmoe", "gshard", "hash", "expert_choice", "soft_moe", "mixtral", "remoe"],
)
def test_a_step_and_a_validation(corpus, recipe):
    ledger = trained(corpus, recipe)
    require_agreement(ledger)
    assert {"rows", "answers", "dense gradients", "statistics"} <= set(ledger.sent)


@pytest.mark.parametrize(
    ("recipe", "deduplicate"), [("deepseek_v3", "exact"), ("olmoe", "sums"), ("llama4", "exact"), ("longcat", "sums")]
)
def test_rows_that_travel_once(corpus, recipe, deduplicate):
    """Those of Llama 4, whose gate weights are on the input, do not."""
    ledger = trained(corpus, recipe, deduplicate=deduplicate)
    require_agreement(ledger)
    assert ("masks" in ledger.sent) == (recipe != "llama4")


def test_experts_that_change_ranks(corpus):
    ledger = trained(corpus, "mixtral", num_ranks=3, rebalance=[[8, 4, 2, 1, 1, 1, 1, 1]])
    require_agreement(ledger)
    assert np.any(ledger.sent["moves"])


def test_replicas_several_passes_and_layers(corpus):
    ledger = trained(corpus, "olmoe", num_ranks=4, batch_size=4, across=2, accumulate=2)
    require_agreement(ledger)
    assert "expert gradients" in ledger.sent


def test_more_ranks_than_experts(corpus):
    require_agreement(trained(corpus, num_ranks=3, num_experts=2))


def test_no_gradients_go_where_nothing_is_trained(corpus):
    ledger = trained(corpus, freeze=("embedding*", "layers.0.attention*", "layers.0.*norm*", "layers.0.*experts*"))
    require_agreement(ledger)
    assert "gradients of rows" not in ledger.sent


def test_capacity_and_balance_of_each_rank(corpus):
    require_agreement(trained(corpus, "switch", capacity_scope="rank", balance_scope="local"))


def test_by_hand():
    """Two tokens of rank 0 go to the expert of rank 1, one of rank 1 to that of rank 0; a token is 3 float32s."""
    layer = {
        "what": "layer", "name": "layers.0", "placement": [[0], [1]], "home": 0, "deduplicate": "none", "d_model": 3,
        "bytes": 4, "gate_bytes": 0, "gradients": ["answers"],
        "amounts": {"passes": [1, 1], "assignments": [[5, 2], [1, 4]]},
    }  # fmt: skip
    assert {kind: sent.tolist() for kind, sent in predicted([layer], 2).items()} == {
        "counts": [[0, 8], [8, 0]],
        "rows": [[0, 24], [12, 0]],
        "answers": [[0, 12], [24, 0]],
        "gradients of answers": [[0, 24], [12, 0]],
    }


def test_sums_move_twice_the_numbers():
    entry = {"what": "sum", "kind": "dense gradients", "bytes": 4, "numbers": 900, "amounts": {"times": [1, 1, 1]}}
    sent = predicted([entry], 3)["dense gradients"]
    assert sent.sum(axis=1).tolist() == [2 * 2 * 300 * 4] * 3


def test_shares_add_up():
    assert shares(7, 3).tolist() == [3, 2, 2]


def test_an_unknown_entry_is_named():
    with pytest.raises(ValueError, match="got 'gossip'"):
        predicted([{"what": "gossip"}], 2)
