"""Every family and configuration: read, run, differentiated and written as transformers does, from recorded numbers."""

import json

import numpy as np
import pytest
from published import direction, models, names_of, pattern, recorded, texts, values

from moe_numpy import pretrained
from moe_numpy.models import Transformer
from moe_numpy.ops import Multiply, Sum
from moe_numpy.pretrained import TensorFiles, write_tensor_files
from moe_numpy.pretrained.config import PublishedConfig

MODELS = [pytest.param(*which, id=" ".join(which)) for which in models()]
PREFIX = {"llama4": "language_model."}
every_model = pytest.mark.parametrize(("family", "name"), MODELS)


def write(folder, config, tensors, **how):
    """A folder as published."""
    prefix = PREFIX.get(config["model_type"], "")
    write_tensor_files(folder, {prefix + name: array for name, array in tensors.items()}.items(), **how)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def weights(model):
    """The tensors of a recorded model by their names in transformers' own files."""
    return {name: values(name, shape, model["seed"], model["width"]) for name, shape in names_of(model).items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """``folders(family, name)``: what is recorded; a file of float32; shards of bfloat16 with the older fields."""
    made = {}

    def of(family, name):
        if (family, name) not in made:
            model, folder = recorded(family)[name], tmp_path_factory.mktemp(family)
            tensors = weights(model)
            shards = {"dtype": "BF16", "max_shard_bytes": sum(array.nbytes for array in tensors.values()) / 6}
            made[family, name] = (
                model,
                write(folder / "version_5", model["version_5"], tensors),
                write(folder / "published", model["published"], tensors, **shards),
            )
        return made[family, name]

    return of


@every_model
def test_logits_and_slopes_of_transformers(family, name, folders):
    model, folder, _ = folders(family, name)
    ids, cotangent = texts(model["seed"])
    transformer = Transformer.from_pretrained(folder, dtype=np.float64)
    logits = transformer(ids).logits
    sums = (cotangent * logits.data)[1].sum(-1)
    np.testing.assert_allclose(sums, model["sums"], rtol=1e-8, atol=1e-8 * np.abs(sums).max())
    Sum.apply(Multiply.apply(logits, cotangent)).backward()
    gradients, shapes = pretrained.published_gradients(transformer), names_of(model)
    assert {tensor: gradient.shape for tensor, gradient in gradients.items()} == shapes
    slopes = dict.fromkeys(model["tensors"], 0.0)
    for tensor, shape in shapes.items():
        slopes[pattern(tensor)] += (gradients[tensor] * direction(tensor, shape, model["seed"])).sum()
    largest = max(map(abs, slopes.values()))
    for like, (_, slope, _) in model["tensors"].items():
        np.testing.assert_allclose(slopes[like], slope, rtol=1e-6, atol=1e-9 * largest, err_msg=like)


@pytest.mark.usefixtures("unchecked")
@every_model
def test_dialects_and_files_are_one_model(family, name, folders):
    model, version_5, published = folders(family, name)
    ids, cotangent = texts(model["seed"])
    mapped, shards = Transformer.from_pretrained(version_5), Transformer.from_pretrained(published)
    logits = mapped(ids).logits.data
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(shards(ids).logits.data, logits)
    sums = (cotangent * logits)[1].sum(-1)
    np.testing.assert_allclose(sums, model["sums"], rtol=0, atol=1e-4 * np.abs(model["sums"]).max())
    assert len(TensorFiles.open(published)) == len(TensorFiles.open(version_5))


@pytest.mark.usefixtures("unchecked")
@every_model
def test_written_back(family, name, folders, tmp_path):
    """From the published folder, mapped: the names, shapes and values of transformers' own file, in their types."""
    model, _, published = folders(family, name)
    pretrained.save_pretrained(Transformer.from_pretrained(published), tmp_path)
    written = TensorFiles.open(tmp_path)
    assert {tensor: stored.shape for tensor, stored in written.items()} == names_of(model)
    for tensor, array in weights(model).items():
        np.testing.assert_array_equal(written[tensor].float32(), array, err_msg=tensor)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("family", sorted({family for family, _ in models()}))
def test_a_model_made_from_its_settings(family, tmp_path):
    """Random weights everywhere, written and read: the same bits, also of what routers keep besides their weights."""
    rng, name = np.random.default_rng(1), list(recorded(family))[-1]
    made = Transformer(PublishedConfig(recorded(family)[name]["version_5"]), rng=rng, dtype=np.float64).eval()
    for tensor in (*made.parameters(), *dict(made.named_buffers()).values()):
        tensor.data = tensor.data + 0.1 * rng.standard_normal(tensor.shape)
    pretrained.save_pretrained(made, tmp_path)
    read = Transformer.from_pretrained(tmp_path, dtype=np.float64).eval()
    ids, _ = texts(0)
    logits = made(ids).logits.data
    np.testing.assert_array_equal(read(ids).logits.data, logits)
    assert read.state_dict().keys() == made.state_dict().keys()
    for ours, array in made.state_dict().items():
        np.testing.assert_array_equal(read.state_dict()[ours], array, err_msg=ours)
    mapped, copies = Transformer.from_pretrained(tmp_path), Transformer.from_pretrained(tmp_path, dtype=np.float32)
    for model in (mapped, copies.eval()):
        np.testing.assert_allclose(model(ids).logits.data, logits, rtol=0, atol=1e-4 * np.abs(logits).max())
        assert model.num_parameters() == made.num_parameters()
        assert model.active_parameters() == made.active_parameters()
