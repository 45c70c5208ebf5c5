"""Texts that have an image token, and how they are written so that it is none."""

import pytest

from tests.testing.tiny import pair_row, picture
from tests.testing.tiny_families import build
from trl_modality import PairedCollator, PairError
from trl_modality.views import escape_image_token


MODELS = ["llava", "qwen2_5_vl"]


def saying(text: str, form: str, processor) -> dict:
    """A row that has a text in one of the forms that rows have, and an image but for the last two."""
    row, token = pair_row(0), processor.image_token
    user, assistant = [{"role": "user", "content": text}], [{"role": "assistant", "content": text}]
    # Qwen's processor expects its image token to stand between two others, which no count depends on
    strings = {"text_rich_prompt": f"{token}red=1 red?", "vision_centric_prompt": f"{token}red?", "completion": "1"}
    return {
        "messages of a pair": {**row, "vision_centric_prompt": user},
        "completion of a pair": {**row, "completion": assistant},
        "blocks": {
            **row,
            "text_rich_prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
        },
        "string of a pair": {**row, **strings, "vision_centric_prompt": f"{token}{text}"},
        "string completion of a pair": {**row, **strings, "completion": text},
        "plain messages": {"images": row["images"], "messages": [*user, {"role": "assistant", "content": "1"}]},
        "plain prompt": {"images": row["images"], "prompt": f"{token}{text}", "completion": "1"},
        "plain completion": {"images": row["images"], "prompt": f"{token}red?", "completion": text},
        "text": {"images": [], "text": text},
        "messages of text": {"images": [], "messages": [*user, {"role": "assistant", "content": "1"}]},
    }[form]


FORMS = [
    "messages of a pair",
    "completion of a pair",
    "blocks",
    "string of a pair",
    "string completion of a pair",
    "plain messages",
    "plain prompt",
    "plain completion",
    "text",
    "messages of text",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", MODELS)
def test_an_escaped_token_is_text(model, form):
    _, processor = build(model)
    collate, token = PairedCollator(processor), processor.image_token
    with pytest.raises(PairError, match="image (token|slot).*`trl_modality.views.escape_image_token`"):
        collate([saying(f"what is {token}? red={token}", form, processor)])
    batch = collate([saying(escape_image_token(f"what is {token}? red={token}", token), form, processor)])
    without = collate([saying("what is it? red=1", form, processor)])

    def n_image_tokens(batch):
        return int((batch["input_ids"] == processor.image_token_id).sum())

    assert n_image_tokens(batch) == n_image_tokens(without)
    assert (n_image_tokens(batch) > 0) == ("pixel_values" in batch)


def test_escaping_keeps_what_is_no_token():
    assert escape_image_token("a < b, <image>, <images>", "<image>") == "a < b, < image>, <images>"
    assert "<|image_pad|>" not in escape_image_token("<|image_pad|><|image_pad|>", "<|image_pad|>")


def test_a_text_column_beside_messages_is_not_read():
    _, processor = build("llava")
    row = {"messages": [{"role": "user", "content": "red?"}, {"role": "assistant", "content": "1"}]}
    with_others = PairedCollator(processor)([{**row, "text": {"de": "rot?"}}])
    assert with_others["input_ids"].equal(PairedCollator(processor)([row])["input_ids"])
    with pytest.raises(PairError, match="`text` is dict, not a string"):
        PairedCollator(processor)([{"text": {"de": "rot?"}}])


def test_an_image_that_becomes_no_token_has_its_size_in_the_message():
    _, processor = build("llava")
    row = {**pair_row(0), "images": [picture(0).resize((1, 40))]}
    with pytest.raises(PairError, match=r"no image token, but .* \(of 1 x 40 pixels\).* smaller than a patch"):
        PairedCollator(processor)([row])


@pytest.mark.parametrize(
    ("options", "row", "remedy"),
    [
        ({"assistant_only_loss": True}, {"text": "red blue"}, "Unset the option, or give the row in the form"),
        ({}, {"prompt": "red?", "text": "red blue"}, "Unset the option, or give the row in the form"),
        ({}, {"messages": [{"role": "developer", "content": "red"}]}, "Write its messages with these roles"),
    ],
)
def test_remedies_fit_what_the_host_refuses(options, row, remedy):
    _, processor = build("llava")
    with pytest.raises(PairError, match=remedy):
        PairedCollator(processor, **options)([row])


def test_a_token_of_videos():
    _, processor = build("qwen2_5_vl")
    row = pair_row(0)
    row["vision_centric_prompt"] = [{"role": "user", "content": f"{processor.video_token} red?"}]
    with pytest.raises(PairError, match=r"`vision_centric_prompt` has the video token '<\|video_pad\|>' in its text"):
        PairedCollator(processor)([row])


def test_a_call_of_a_tool_is_a_completion():
    """Whose content may be nothing, if the template writes the call."""
    _, processor = build("llava")
    processor.chat_template = processor.chat_template.replace(
        "{% if message['content'] is string %}", "{{ message['tool_calls'] }}{% if message['content'] is string %}"
    ).replace("{% else %}{% for", "{% elif message['content'] %}{% for")
    row = pair_row(0)
    row["completion"] = [{"role": "assistant", "content": None, "tool_calls": [{"name": "red"}]}]
    batch = PairedCollator(processor)([row])
    assert (batch["labels"] != -100).sum() > 2
    row["completion"][0]["tool_calls"] = []
    with pytest.raises(PairError, match="message 0 of `completion` has no `content`"):
        PairedCollator(processor)([row])
