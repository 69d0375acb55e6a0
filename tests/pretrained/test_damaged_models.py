"""Damaged models of all families: an error of one line, quickly and without memory, or logits from before.

Only where no reader could know better, as with two tensors of one shape exchanged, may another model come of it.
"""

import json
import random
import shutil
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from damage import FILES, OTHER, REFUSED, SAME, SETTINGS
from published import models, names_of, recorded, texts, values, written

from moe_numpy.models import Transformer
from moe_numpy.pretrained import PretrainedError, write_tensor_files
from moe_numpy.pretrained.quantisation import Quantisation
from moe_numpy.pretrained.quantising import plan, write_quantised

pytestmark = pytest.mark.no_cover

CASES = 520
SECONDS, BYTES = 2.0, 2_000_000  # for a folder of 60 KB


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """``intact(rng)``: a folder of some family in some dialect, its logits and the text that they are of."""
    last, made = dict(models()), {}  # of each family

    def of(rng):
        which = family, dialect = rng.choice(sorted(last)), rng.choice(["published", "version_5"])
        if which not in made:
            model, folder = recorded(family)[last[family]], tmp_path_factory.mktemp(family)
            prefix = "language_model." if model[dialect]["model_type"] == "llama4" else ""
            drawn = {n: values(n, shape, model["seed"], model["width"]) for n, shape in names_of(model).items()}
            how = {"dtype": "BF16", "max_shard_bytes": 60_000} if dialect == "published" else {}
            write_tensor_files(folder, [(prefix + n, array) for n, array in drawn.items()], **how)
            (folder / "config.json").write_text(json.dumps(model[dialect]))
            ids = texts(model["seed"])[0][:1]
            made[which] = folder, Transformer.from_pretrained(folder)(ids).logits.data, ids
        return made[which]

    return of


def outcome(folder, logits, ids):
    """What came of reading a folder, and the message of an error."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    tracemalloc.start()
    start = time.perf_counter()
    try:
        model = Transformer.from_pretrained(folder)
    except PretrainedError as error:
        return REFUSED, str(error)
    finally:
        seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < SECONDS
        assert peak < size + BYTES
    if model.context < ids.shape[1]:
        return OTHER, ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model(ids).logits.data
    return SAME if np.array_equal(found, logits) else OTHER, ""


@pytest.fixture(scope="module")
def intact_quantised(tmp_path_factory):
    """The same of quantised models, with experts in transposed stacks, one by one, and below one another."""
    made = {}

    def of(rng):
        family = rng.choice(["gpt_oss", "mixtral", "deepseek_v3", "dbrx"])
        if family not in made:
            folder = tmp_path_factory.mktemp("quantised") / family
            ids = written(folder, family)[:1]
            formats = Quantisation(*rng.sample(["int8", "int4", "mxfp4", "fp8"], 2))
            write_quantised(folder, plan(folder, formats), folder / "out", max_shard_bytes=60_000)
            made[family] = folder / "out", Transformer.from_pretrained(folder / "out")(ids).logits.data, ids
        return made[family]

    return of


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("part", range(20))
def test_a_damaged_model_is_refused(intact, tmp_path, part):
    refuse_damaged(intact, tmp_path, range(part * CASES // 20, (part + 1) * CASES // 20))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("part", range(4))
def test_a_damaged_quantised_model_is_refused(intact_quantised, tmp_path, part):
    refuse_damaged(intact_quantised, tmp_path, range(part * 40, (part + 1) * 40))


def refuse_damaged(intact, tmp_path, seeds):
    for seed in seeds:
        rng = random.Random(seed)
        folder, logits, ids = intact(rng)
        damaged = shutil.copytree(folder, tmp_path / "model")
        way = rng.choice(SETTINGS if rng.random() < 0.6 else FILES)
        *what, allowed = way(rng, damaged)
        case = (seed, folder.name, way.__name__, what)
        try:
            found, message = outcome(damaged, logits, ids)
        except Exception as error:
            raise AssertionError(case) from error
        assert found in allowed, (case, found, message)
        if found == REFUSED:
            assert message.startswith(str(damaged)), (case, message)
            assert message.isprintable(), (case, message)
            assert len(message) < 1000, (case, message)
        shutil.rmtree(damaged)
