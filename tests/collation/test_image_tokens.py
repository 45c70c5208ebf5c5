"""A tokenizer that reads a run of image tokens as one gives the ids and masks that it gives without."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.testing.tiny import pair_row, tiny_llava
from tests.testing.tiny_families import build
from trl_modality import PairedCollator
from trl_modality.collation.image_tokens import CollapsedImageTokens, with_collapsed_image_tokens


PIECES = ["<image>", "<image><image>", "<image>" * 7, " ", "  ", "a", "b c", "▁", "\n", "<other>", "<ima", "ge>", "é"]


def of_bytes() -> Tokenizer:
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def metaspace(scheme: str) -> Tokenizer:
    """As of Llama's: a space before the text, or before each part of it."""
    letters = ["<unk>", "▁", "▁a", *"abcégim<>\n", "▁b"]
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, [("▁", "a"), ("▁", "b")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return backend


def normalizing() -> Tokenizer:
    """A space before the text as a normalizer, as Llama 2's own tokenizer has it."""
    backend = metaspace("never")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return backend


BACKENDS = {
    "bytes": of_bytes,
    "metaspace, always": lambda: metaspace("always"),
    "metaspace, first": lambda: metaspace("first"),
    "normalizing": normalizing,
}


def tokenizer_of(name: str, strips: bool) -> PreTrainedTokenizerFast:
    backend = BACKENDS[name]()
    image = AddedToken("<image>", lstrip=strips, rstrip=strips, normalized=False, special=True)
    backend.add_special_tokens([image, "<other>", "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


TOKENIZERS = {(name, strips): tokenizer_of(name, strips) for name in BACKENDS for strips in (False, True)}
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=4)


@pytest.mark.parametrize("key", TOKENIZERS, ids=str)
@settings(max_examples=150, deadline=None)
@given(texts=TEXTS, side=st.sampled_from(["left", "right"]))
def test_runs_change_nothing(key, texts, side):
    tokenizer = TOKENIZERS[key]
    kwargs = {"padding": True, "padding_side": side, "return_tensors": "pt", "add_special_tokens": False}
    expected = tokenizer(texts, return_token_type_ids=False, **kwargs)
    found = CollapsedImageTokens(tokenizer, "<image>")(texts, **kwargs)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(found[name], expected[name].long()), name


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"padding": True, "return_tensors": "pt", "add_special_tokens": True, "padding_side": "left"},
        {"padding": "max_length", "max_length": 9, "return_tensors": "pt", "add_special_tokens": False},
        {"padding": True, "return_tensors": "np", "add_special_tokens": False, "padding_side": "left"},
        {"padding": True, "truncation": True, "max_length": 2, "return_tensors": "pt", "padding_side": "left"},
    ],
)
def test_asked_for_anything_else_it_is_the_tokenizer(kwargs):
    tokenizer = TOKENIZERS["bytes", False]
    texts = ["a<image><image>b", "c"]
    found, expected = CollapsedImageTokens(tokenizer, "<image>")(texts, **kwargs), tokenizer(texts, **kwargs)
    assert repr(dict(found)) == repr(dict(expected))


def test_it_is_its_tokenizer_otherwise():
    tokenizer = TOKENIZERS["bytes", False]
    runs = CollapsedImageTokens(tokenizer, "<image>")
    assert runs.pad_token_id == tokenizer.pad_token_id
    assert runs("ab")["input_ids"] == tokenizer("ab")["input_ids"]
    with pytest.raises(AttributeError):
        runs.colour  # noqa: B018


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_it_goes_where_collators_go(again):
    processor = tiny_llava()[1]
    runs = again(with_collapsed_image_tokens(processor).tokenizer)
    kwargs = {"padding": True, "padding_side": "left", "return_tensors": "pt", "add_special_tokens": False}
    expected = processor.tokenizer(["a<image><image>b", "c"], **kwargs)["input_ids"]
    assert torch.equal(runs(["a<image><image>b", "c"], **kwargs)["input_ids"], expected)


@pytest.mark.parametrize(("name", "is_used"), [("llava", True), ("qwen2_5_vl", True), ("idefics3", False)])
def test_processors_that_ask_for_more_than_ids_keep_their_tokenizer(name, is_used):
    processor = build(name)[1]
    assert isinstance(with_collapsed_image_tokens(processor).tokenizer, CollapsedImageTokens) is is_used
    assert not isinstance(processor.tokenizer, CollapsedImageTokens)


def test_an_image_token_that_is_a_word_is_left_alone():
    processor = tiny_llava()[1]
    processor.image_token = "red"
    assert with_collapsed_image_tokens(processor) is processor


def test_an_image_token_that_is_not_in_the_vocabulary_is_left_alone():
    """Its id would be that of the unknown token, which is special and stands for anything."""
    processor = tiny_llava()[1]
    processor.tokenizer.add_special_tokens({"unk_token": "<unk>"})
    processor.image_token = "<picture>"
    assert with_collapsed_image_tokens(processor) is processor


def test_an_image_token_that_stands_by_itself_only_is_left_alone():
    processor = tiny_llava()[1]
    alone = AddedToken("<alone>", single_word=True, normalized=False, special=True)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [alone]})
    processor.image_token = "<alone>"
    assert with_collapsed_image_tokens(processor) is processor


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl"])
def test_the_collators_texts_go_that_way(name, monkeypatch):
    """If the host asks its tokenizer for something new, this says that the fast way is no longer taken."""
    processor = build(name)[1]
    seen = []
    original = CollapsedImageTokens._padded
    monkeypatch.setattr(
        CollapsedImageTokens, "_padded", lambda self, rows, side: seen.append(len(rows)) or original(self, rows, side)
    )
    PairedCollator(processor)([pair_row(0), pair_row(1)])
    assert seen == [2] * 4  # prompts and completions of both views
