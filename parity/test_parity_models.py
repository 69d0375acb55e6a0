"""Whole published models, read from their files: logits, greedy continuation, all gradients, and written back.

The files and the numbers are made by transformers, see :mod:`models.reference`. Weights are values of bfloat16, so that
the folder as transformers 5 saves it (float32) and as its publisher would have (bfloat16, shards, older fields) hold
the same model.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from comparison import difference
from models.dialects import publish, shorten
from models.packed import save_packed
from models.reference import GRADIENT, NEW, logits_of, make
from models.tiny_models import FAMILIES, STORED, cases
from safetensors.numpy import load_file

from moe_numpy import pretrained
from moe_numpy.models import Transformer, generate
from moe_numpy.ops import CrossEntropy

# All tests of one model run in one process, which makes the model once.
CASES = [pytest.param(*case, id=" ".join(case), marks=pytest.mark.xdist_group(" ".join(case))) for case in cases()]
LOGITS = {"float32": 1e-4, "float64": 1e-9}
GRADIENTS = {"float32": (1e-4, 1e-3), "float64": (1e-7, 1e-7)}  # tolerance; entries below this are no scale
# transformers 5.23 ignores the rope_theta in DBRX's attn_config, and reads Llama 4 with images by another class.
NOT_FOLLOWED = ["dbrx clipped", *(f"llama4_text {name}" for name in FAMILIES["llama4_text"][3])]


@dataclass(frozen=True)
class Folders:
    """One model in two dialects, and the numbers of transformers."""

    saved: Path  # as transformers 5 saves it
    published: Path  # as its publisher would have
    numbers: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Callable[[str, str], Folders]:
    """``folders(family, name)``, made on the first call."""
    made: dict[tuple[str, str], Folders] = {}

    def of(family: str, name: str) -> Folders:
        if (family, name) not in made:
            saved = tmp_path_factory.mktemp(f"{family}-{name}")
            published = saved / "published"
            make(family, name, saved)
            if name in STORED:
                save_packed(name, saved, published)
            else:
                publish(saved, published)
            with np.load(saved / "ref.npz") as file:
                made[family, name] = Folders(saved, published, dict(file))
        return made[family, name]

    return of


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("family", "name"), CASES)
def test_logits(family, name, dtype, folders, check):
    folder = folders(family, name)
    model = Transformer.from_pretrained(folder.saved, dtype=dtype)
    ours = model(folder.numbers["ids"]).logits.data
    assert ours.dtype == dtype
    check(family, dtype, {"logits": apart(ours, folder.numbers["logits"])}, LOGITS[dtype])
    if dtype == "float32":
        check(family, dtype, {"logits": apart(ours, folder.numbers["logits32"])}, LOGITS[dtype])


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case.id not in NOT_FOLLOWED])
def test_both_dialects_are_one_model(family, name, folders, check):
    """In transformers: what :mod:`models.dialects` writes is what the publisher would have meant."""
    folder = folders(family, name)
    logits = logits_of(by_transformers(family, folder.published), folder.numbers["ids"])
    check(family, "float32", {"logits": apart(logits, folder.numbers["logits32"])}, 1e-6)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_as_published(family, name, folders):
    """Older fields of config.json, shards, bfloat16, and tensors that the model leaves out: the same model."""
    folder = folders(family, name)
    ours, published = (Transformer.from_pretrained(path) for path in (folder.saved, folder.published))
    ids = folder.numbers["ids"]
    np.testing.assert_array_equal(published(ids).logits.data, ours(ids).logits.data)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_fields_left_out(family, name, folders, tmp_path, check):
    """A field that config.json does not have is the family's default, here and in transformers."""
    folder = folders(family, name)
    shorten(folder.saved, tmp_path, FAMILIES[family][0]().to_dict())
    ids = folder.numbers["ids"]
    theirs = logits_of(by_transformers(family, tmp_path), ids)
    check(family, "float32", {"logits": apart(theirs, folder.numbers["logits32"])}, 1e-6)
    ours, short = (Transformer.from_pretrained(path) for path in (folder.saved, tmp_path))
    np.testing.assert_array_equal(short(ids).logits.data, ours(ids).logits.data)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_greedy_continuation(family, name, folders):
    """With our cache of keys and values; the reference has none."""
    folder = folders(family, name)
    model = Transformer.from_pretrained(folder.saved)
    tokens = generate(model, folder.numbers["prompt"], NEW, rng=np.random.default_rng(0), temperature=0)
    assert list(tokens) == folder.numbers["continuation"].tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("family", "name"), CASES)
def test_gradients(family, name, dtype, folders, check):
    """Of the next-token loss and, where the family has one in transformers, the balance loss over all layers."""
    folder = folders(family, name)
    model = Transformer.from_pretrained(folder.saved, dtype=dtype)
    ids = folder.numbers["ids"]
    output = model(ids)
    loss = CrossEntropy.apply(output.logits[:, :-1], ids[:, 1:])
    auxiliary, coefficient = output.auxiliary_loss, float(folder.numbers["balance_coefficient"])
    assert (auxiliary is None) == (coefficient == 0)
    if auxiliary is not None:
        expected = coefficient * folder.numbers["balance_loss"]
        check(family, dtype, {"loss balance": difference(auxiliary.data, expected)}, 1e-5)
        loss = loss + auxiliary
    check(family, dtype, {"loss": difference(loss.data, folder.numbers["loss"])}, 1e-5)
    loss.backward()

    ours = trained(pretrained.published_gradients(model))
    theirs = trained({n.removeprefix(GRADIENT): g for n, g in folder.numbers.items() if n.startswith(GRADIENT)})
    assert ours.keys() == theirs.keys()
    tolerance, floor = GRADIENTS[dtype]
    differences = {f"dW {name}": difference(ours[name], gradient, floor) for name, gradient in theirs.items()}
    check(family, dtype, differences, tolerance)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_written_back(family, name, folders, tmp_path, check):
    """Read from the published folder and saved by us: the names and values of transformers' own file, and it loads."""
    folder = folders(family, name)
    pretrained.save_pretrained(Transformer.from_pretrained(folder.published), tmp_path)
    ours, theirs = tensors_of(tmp_path), load_file(folder.saved / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor, values in theirs.items():
        np.testing.assert_array_equal(ours[tensor], values, err_msg=tensor)
    logits = logits_of(by_transformers(family, tmp_path, complete=True), folder.numbers["ids"])
    check(family, "float32", {"logits": apart(logits, folder.numbers["logits32"])}, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", STORED)
def test_number_formats(kind, dtype, folders, check):
    """MXFP4 and FP8: bit for bit what the folder with the values themselves gives."""
    folder = folders(STORED[kind][0], kind)
    values, packed = (Transformer.from_pretrained(path, dtype=dtype) for path in (folder.saved, folder.published))
    ids = folder.numbers["ids"]
    ours = packed(ids).logits.data
    np.testing.assert_array_equal(ours, values(ids).logits.data)
    check(kind, dtype, {"logits": apart(ours, folder.numbers["logits"])}, LOGITS[dtype])


def by_transformers(family: str, folder: Path, complete: bool = False):
    """The model as transformers reads it; ``complete``: the folder must hold its tensors and no others."""
    ways = {"attn_implementation": "eager", "experts_implementation": "eager", "dtype": "float32"}
    model, problems = FAMILIES[family][1].from_pretrained(folder, output_loading_info=True, **ways)
    assert not (complete and any(problems.values())), problems
    return model.eval()


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours.astype(np.float64) - theirs).max())


def trained(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without correction biases, which no gradient trains."""
    untrained = ("correction_bias", "expert_bias")
    return {name: array for name, array in arrays.items() if not name.endswith(untrained)}


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, in one file or in shards."""
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ["model.safetensors"]
    return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
