"""Texts of rows."""

from datasets import Dataset, IterableDataset

from tests.faults.fault import Fault, Scene
from tests.testing.tiny import pair_dataset, pair_row, tiny_llava
from tests.testing.tiny_families import build
from trl_modality import PairedCollator


USER, ASSISTANT = {"role": "user", "content": "red?"}, {"role": "assistant", "content": "1"}


def plain(**fields):
    """A collator of LLaVA on a pair and a plain row at number 7."""

    def provoke(scene: Scene) -> None:
        row = {"images": [], **fields, "__index__": 7}
        PairedCollator(tiny_llava()[1])([pair_row(0), row])

    return provoke


def pair(**fields):
    """A trainer on four pairs, whose number 2 has other fields; written by a transform, so that any type will do."""

    def provoke(scene: Scene) -> None:
        def changed(batch):
            changes = fields if batch["id"] == ["pair-2"] else {}
            return batch | {name: [value] for name, value in changes.items()}

        scene.trainer(pair_dataset(4).with_transform(changed))

    return provoke


def replay(*texts, **options):
    """A run that replays these texts."""

    def provoke(scene: Scene) -> None:
        rows = Dataset.from_dict({"text": list(texts)})
        scene.trainer(replay_dataset=rows, replay_ratio=0.4, max_steps=8, **options).train()

    return provoke


def literal(model: str, column: str, *, images: bool = True):
    """A pair of a family, or a plain row, one of whose texts has the image token itself."""

    def provoke(scene: Scene) -> None:
        _, processor = build(model)
        row = pair_row(0)
        role = "assistant" if column == "completion" else "user"
        row[column] = [{"role": role, "content": f"What is {processor.image_token}?"}]
        if not images:
            row = {"images": [], "messages": row[column]}
        PairedCollator(processor)([row])

    return provoke


def string_without_slot(scene: Scene) -> None:
    texts = {"text_rich_prompt": "red=1 red?", "vision_centric_prompt": "red?", "completion": "1"}
    PairedCollator(tiny_llava()[1])([{**pair_row(0), **texts}])


def learnt_from_assistants_alone(scene: Scene) -> None:
    collate = PairedCollator(tiny_llava()[1], assistant_only_loss=True)
    collate([pair_row(0), {"images": [], "messages": [USER], "__index__": 7}])


def template_refuses(scene: Scene) -> None:
    _, processor = tiny_llava()
    processor.chat_template = "{{ raise_exception('roles must alternate') }}"
    PairedCollator(processor)([{"images": [], "messages": [USER, USER], "__index__": 7}])


def streamed(scene: Scene) -> None:
    """A stream whose function raises on its row 5."""

    def rows():
        for i in range(5):
            yield pair_row(i)
        raise KeyError("chart")

    scene.trainer(IterableDataset.from_generator(rows), max_steps=4, check_rows=2).train()


SOON, LATE = "before the first step", "in training"
AT = "row 7: "

FAULTS = [
    Fault(
        "an empty text among the rows that are replayed",
        SOON,
        r"`replay_dataset` row 1: `text` is empty\. Fill it in or remove the row",
        replay("red=1 green=2", "", "red=1"),
    ),
    Fault(
        "an empty text among the rows that are replayed, not among those that were checked",
        LATE,
        r"`replay_dataset` row 1: `text` is empty",
        replay("red=1 green=2", "", "red=1", check_rows=1),
    ),
    Fault("a text that is nothing", SOON, AT + r"neither a pair nor a plain row: it has no text", plain(text=None)),
    Fault("a text that is a number", SOON, AT + "`text` is int, not a string", plain(text=5)),
    Fault("a text of a single token", SOON, AT + r"nothing is learnt of its 1 token\(s\)", plain(text="1")),
    Fault("an empty list of messages", SOON, AT + "`messages` is empty", plain(messages=[])),
    Fault(
        "a plain row with an empty completion", SOON, AT + "`completion` is empty", plain(prompt="1", completion="")
    ),
    Fault(
        "a plain row with a prompt and no completion", SOON, AT + r"neither .*: it has \['prompt'\]", plain(prompt="1")
    ),
    Fault(
        "a prompt in messages and a completion as a string",
        SOON,
        AT + "`completion` given as a string, the other as a message list",
        plain(prompt=[USER], completion="1"),
    ),
    Fault(
        "messages in the form of ShareGPT",
        SOON,
        AT + r"`messages` has messages with `from` and `value`\. They are in the form of ShareGPT: write `role`",
        plain(messages=[{"from": "human", "value": "1"}]),
    ),
    Fault(
        "the role `human`",
        SOON,
        AT + r"message 0 of `messages` has the role 'human'\. .* write .* 'user' in place of 'human'",
        plain(messages=[{**USER, "role": "human"}, ASSISTANT]),
    ),
    Fault(
        "the role `gpt` in the completion of a pair",
        SOON,
        r"`train_dataset` row 2, id='pair-2': message 0 of `completion` has the role 'gpt'\. .* 'assistant' of 'gpt'",
        pair(completion=[{**ASSISTANT, "role": "gpt"}]),
    ),
    Fault(
        "a role that is nothing in the prompt of a pair",
        SOON,
        r"row 2, .* message 0 of `vision_centric_prompt` has the role None\. Give one of system, user",
        pair(vision_centric_prompt=[{**USER, "role": None}]),
    ),
    Fault(
        "a message without content",
        SOON,
        AT + "message 1 of `messages` has no `content`",
        plain(messages=[USER, {**ASSISTANT, "content": None}]),
    ),
    Fault(
        "a message whose content is a number",
        SOON,
        AT + "the `content` of message 0 of `messages` is int",
        plain(messages=[{**USER, "content": 3}, ASSISTANT]),
    ),
    Fault(
        "a block of text without its text",
        SOON,
        AT + "message 0 of `messages` has a block of text without `text`",
        plain(messages=[{**USER, "content": [{"type": "text", "text": None}]}, ASSISTANT]),
    ),
    Fault(
        "a prompt of a pair that is a number",
        SOON,
        r"row 2, .*`text_rich_prompt` is neither a string nor a list of messages with `role` and `content`\. Got int",
        pair(text_rich_prompt=4),
    ),
    Fault(
        "no message of an assistant, of which alone is learnt",
        SOON,
        AT + r"nothing is learnt of its \d+ token\(s\)\. .* with `assistant_only_loss` an assistant's message",
        learnt_from_assistants_alone,
    ),
    Fault(
        "a text that is not valid Unicode",
        SOON,
        AT + r"the processor cannot collate .* not valid Unicode: write it with",
        plain(text="red \ud800 green"),
    ),
    Fault(
        "the image token in the text of a prompt (LLaVA)",
        SOON,
        r"`text_rich_prompt` has the image token '<image>' in its text.*`trl_modality.views.escape_image_token`",
        literal("llava", "text_rich_prompt"),
    ),
    Fault(
        "the image token in the text of a prompt (Qwen2.5-VL)",
        SOON,
        r"`vision_centric_prompt` has the image token '<\|image_pad\|>' in its text",
        literal("qwen2_5_vl", "vision_centric_prompt"),
    ),
    Fault(
        "the image token in the text of a completion",
        SOON,
        r"`completion` has the image token '<image>' in its text, where it stands for no image",
        literal("llava", "completion"),
    ),
    Fault(
        "the image token in the text of a row without an image",
        SOON,
        r"`messages` has the image token '<image>' in its text, where it stands for no image",
        literal("llava", "completion", images=False),
    ),
    Fault(
        "a prompt that is a string without a place for its image",
        SOON,
        r"`?text_rich.*'<image>' where each",
        string_without_slot,
    ),
    Fault(
        "more image tokens than images in a prompt that is a string",
        SOON,
        AT + r"`prompt` has 2 image slot\(s\) \('<image>'\), but the row has 1 image\(s\)",
        plain(prompt="<image> <image> red?", completion="1", images=pair_row(0)["images"]),
    ),
    Fault(
        "a stream that raises",
        LATE,
        r"`train_dataset` row 5: the stream raises while it reads this row \(KeyError: 'chart'\)\. Mend its source",
        streamed,
    ),
    Fault(
        "messages that the chat template does not take",
        SOON,
        AT + r"the processor cannot collate .*roles must alternate.* The chat template does not take its messages",
        template_refuses,
    ),
    Fault(
        "a transform of the dataset that loses the texts",
        SOON,
        r"`train_dataset` row 0, id='pair-0': neither a pair nor a plain row: it has no text column",
        lambda scene: scene.trainer(
            pair_dataset(4).with_transform(lambda batch: {"id": batch["id"], "images": batch["images"]})
        ),
    ),
]
