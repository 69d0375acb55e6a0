import json

import pytest

from moe_numpy.pretrained.errors import PretrainedError
from moe_numpy.pretrained.special_tokens import end_ids, special_tokens

IDS = {"<s>": 1, "</s>": 2, "<|end|>": 7}


def folder_with(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_tokens_are_strings_or_objects_and_roles_of_one_model_count(tmp_path):
    config = {
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "pad_token": None,
        "image_token": "<image>",
        "extra_special_tokens": {"boi_token": "<boi>"},
        "add_bos_token": True,
        "additional_special_tokens": ["<y>"],
        "added_tokens_decoder": {},
    }
    ignored = {"eos_token": "<|end|>"}  # the config lists its tokens
    found = special_tokens(folder_with(tmp_path, tokenizer_config=config, special_tokens_map=ignored))
    assert found == {"bos_token": "<s>", "eos_token": "</s>", "image_token": "<image>", "boi_token": "<boi>"}


def test_the_map_has_the_last_word_where_the_config_lists_no_tokens(tmp_path):
    folder = folder_with(
        tmp_path,
        tokenizer_config={"eos_token": "</s>", "bos_token": "<s>"},
        special_tokens_map={"eos_token": {"content": "<|end|>"}},
    )
    assert special_tokens(folder) == {"eos_token": "<|end|>", "bos_token": "<s>"}


def test_a_folder_without_these_files_has_none(tmp_path):
    assert special_tokens(tmp_path) == {}
    assert end_ids(tmp_path, IDS.get) == frozenset()


@pytest.mark.parametrize("value", [True, 3, ["</s>"], {"text": "</s>"}, {"content": 3}])
def test_a_token_of_another_type_is_refused(tmp_path, value):
    folder_with(tmp_path, tokenizer_config={"eos_token": value})
    with pytest.raises(PretrainedError, match=r"tokenizer_config\.json: eos_token must be a string or an object"):
        special_tokens(tmp_path)


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"generation_config": {"eos_token_id": 5}, "config": {"eos_token_id": 6}}, {5}),
        ({"generation_config": {"eos_token_id": [5, 9]}, "tokenizer_config": {"eos_token": "</s>"}}, {5, 9}),
        ({"generation_config": {"eos_token_id": 0}, "config": {"eos_token_id": 6}}, {0}),
        ({"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": [6]}}, {6}),
        ({"config": {}, "tokenizer_config": {"eos_token": "</s>"}}, {2}),
        ({"special_tokens_map": {"eos_token": {"content": "<|end|>"}}}, {7}),
    ],
)
def test_the_first_file_that_names_ids_decides_what_ends_a_text(tmp_path, files, ids):
    assert end_ids(folder_with(tmp_path, **files), IDS.get) == ids


@pytest.mark.parametrize("value", [-1, 2.0, "2", True, [1, None], {"a": 1}])
def test_ids_that_are_none_are_refused(tmp_path, value):
    folder_with(tmp_path, generation_config={"eos_token_id": value})
    with pytest.raises(PretrainedError, match=r"generation_config\.json: eos_token_id must be an id or a list of ids"):
        end_ids(tmp_path, IDS.get)


def test_an_end_that_is_no_token_is_refused(tmp_path):
    folder_with(tmp_path, tokenizer_config={"eos_token": "<stop>"})
    with pytest.raises(PretrainedError, match=r"eos_token '<stop>' is not in the vocabulary"):
        end_ids(tmp_path, IDS.get)
