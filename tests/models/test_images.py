"""Images in a transformer: their patches stand among tokens, and text alone is as without them."""

from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.autodiff import no_grad
from moe_numpy.inference import Decoder
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.nn.patch_embedding import PATCH

CONFIG = ModelConfig(
    d_model=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    context=24,
    d_ff=8,
    num_experts=12,
    recipe="multimodal",
    image_size=4,
)
IMAGES = np.random.default_rng(1).random((3, 4, 4)).astype(np.float32)
TEXT = np.random.default_rng(2).integers(0, 256, (2, 24))


def make(**settings):
    return Transformer(replace(CONFIG, **settings), rng=np.random.default_rng(0))


def with_images():
    """Two images in the first sequence, one in the second."""
    tokens = TEXT.copy()
    tokens[0, 3:7] = tokens[0, 12:16] = tokens[1, :4] = PATCH
    return tokens


@pytest.mark.parametrize("pools", ["separate", "mixed"])
def test_logits_of_text_are_those_of_the_model_without_image_experts_bit_for_bit(pools):
    model = make(recipe_settings={"pools": pools}).eval()
    num_text = len(model.layers[0].feed_forward.pools[0])
    text_only = make(num_experts=num_text, recipe_settings={"image_experts": 0}, image_size=0).eval()
    weights = {name: p.data for name, p in model.named_parameters()}
    for name, p in text_only.named_parameters():
        p.data[...] = weights[name][: len(p.data)]
    assert text_only.num_parameters() < model.num_parameters()
    with no_grad():
        np.testing.assert_array_equal(model(TEXT).logits.data, text_only(TEXT).logits.data)


@pytest.mark.parametrize("pools", ["separate", "mixed", "shared"])
def test_text_is_decoded_with_the_same_logits(pools):
    model = make(recipe_settings={"pools": pools}).eval()
    decoder = Decoder(model)
    found = decoder.read((decoder.new_sequence(), TEXT[0]), every=True)
    with no_grad():
        np.testing.assert_allclose(found, model(TEXT[:1]).logits.data[0], rtol=1e-4, atol=1e-5)


def test_patches_stand_in_the_order_of_the_tokens_and_the_past_does_not_see_them():
    model = make().eval()
    tokens = with_images()
    logits = model(tokens, images=IMAGES).logits.data
    others = IMAGES.copy()
    others[1] += 1  # the second of the first sequence
    changed = np.abs(model(tokens, images=others).logits.data - logits).max(axis=2) > 1e-4  # more than rounding
    assert not changed[0, :12].any()
    assert changed[0, 12:].all()
    assert not changed[1].any()


def test_every_parameter_learns_from_text_and_images():
    model = make()
    output = model(with_images(), images=IMAGES)
    ((output.logits * output.logits).mean() + output.auxiliary_loss).backward()
    assert all(np.abs(p.grad).max() > 0 for p in model.parameters())


def test_images_that_do_not_fit_are_named():
    model = make()
    with pytest.raises(ValueError, match="12 tokens are patches, but 2 images have 4 each"):
        model(with_images(), images=IMAGES[:2])
    with pytest.raises(ValueError, match="this model was made without images"):
        make(image_size=0)(with_images(), images=IMAGES)
    with pytest.raises(ValueError, match="patch_size=3 must divide image_size=4"):
        make(patch_size=3)
    with pytest.raises(ValueError, match="the layers of soft_moe do not take images"):
        make(recipe="soft_moe")


def test_settings_of_images_are_stored_only_where_there_are_some():
    assert "image_size" not in ModelConfig().to_json()
    assert ModelConfig.from_json(CONFIG.to_json()) == CONFIG
