"""Files as people have them, written by hand after the documentation of the projects that use them."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value

from tests.testing.tiny import picture


@dataclass(frozen=True)
class Variant:
    """A file of two records about `red.png` and `blue.png`, and what is read from it.

    Args:
        name: The file.
        content: Its text, or its records (JSON, or JSON lines by the name).
        form: What it is recognised as.
        rows: Of each row, the prompt, the completion (`None`: there is none) and the number of images.
        options: Of `read_rows`.
        columns: Further columns of the rows.
    """

    name: str
    content: Any
    form: str
    rows: list[tuple[Any, Any, int]]
    options: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """The file, with its images beside it."""
        write_images(folder)
        path = folder / self.name
        if callable(self.content):
            self.content(path)
            return path
        text = self.content
        if not isinstance(text, str):
            lines = path.suffix == ".jsonl"
            text = "".join(json.dumps(each) + "\n" for each in text) if lines else json.dumps(text, indent=1)
        path.write_text(text, encoding="utf-8")
        return path


def write_images(folder: Path) -> None:
    """`red.png` and `blue.png`, and the same in `images`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("red.png", "blue.png")):
        picture(seed).save(folder / name)
        picture(seed).save(folder / "images" / name)


def _data_url(seed: int) -> str:
    from io import BytesIO

    buffer = BytesIO()
    picture(seed).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _human(text: str) -> dict:
    return {"from": "human", "value": text}


def _gpt(text: str) -> dict:
    return {"from": "gpt", "value": text}


def _user(content: Any) -> dict:
    return {"role": "user", "content": content}


def _assistant(content: Any) -> dict:
    return {"role": "assistant", "content": content}


def _parquet_of_the_hub(path: Path) -> None:
    """As `datasets` writes images: bytes in the file, under `image`."""
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    rows = {"image": [picture(0), picture(1)], "question": ["Red?", "Blue?"], "answer": ["1", "2"]}
    Dataset.from_dict(rows, features=features).to_parquet(path)


def _parquet_of_messages(path: Path) -> None:
    """As TRL's vision datasets: parts of type `image`, and the images in a column of their own."""
    part = {"type": Value("string"), "text": Value("string")}
    messages = List({"role": Value("string"), "content": List(part)})
    features = Features({"messages": messages, "images": List(Image())})
    shown, asked = {"type": "image", "text": None}, {"type": "text", "text": "Red?"}
    rows = [
        {
            "messages": [_user([shown, asked]), _assistant([{"type": "text", "text": "1"}])],
            "images": [picture(0)],
        }
    ] * 2
    Dataset.from_list(rows, features=features).to_parquet(path)


def _parquet_of_texts(path: Path) -> None:
    """Questions with their answers in one message each, and the images beside them."""
    said = List({name: Value("string") for name in ("user", "assistant", "source")})
    features = Features({"images": List(Image()), "texts": said})
    texts = [{"user": user, "assistant": answer, "source": "x"} for user, answer in (("Red?", "1"), ("Sure?", "Yes."))]
    Dataset.from_list([{"images": [picture(0)], "texts": texts}], features=features).to_parquet(path)


ONE_BY_ONE = [("Red?", "1", 1), ("Blue?", "2", 1)]
MANY_TURNS = [_human("<image>\nRed?"), _gpt("1"), _human("Sure?"), _gpt("Yes.")]
HISTORY = [_user("Red?"), _assistant("1"), _user("Sure?")]

VARIANTS = [
    Variant(  # haotian-liu/LLaVA, docs/Finetune_Custom_Data.md
        "llava.json",
        [
            {"id": "a", "image": "red.png", "conversations": [_human("<image>\nRed?"), _gpt("1")]},
            {"id": "b", "image": "blue.png", "conversations": [_human("Blue?\n<image>"), _gpt("2")]},
        ],
        "llava",
        ONE_BY_ONE,
        columns={"id": ["a", "b"]},
    ),
    Variant(  # several turns, and a record of text alone, as in llava_v1_5_mix665k.json
        "llava_turns.json",
        [
            {"id": "a", "image": "images/red.png", "conversations": MANY_TURNS, "model": ""},
            {"id": "b", "conversations": [_human("1 + 1?"), _gpt("2")]},
        ],
        "llava",
        [("Red?", "1", 1), (HISTORY, "Yes.", 1), ("1 + 1?", "2", 0)],
        columns={"id": ["a/0", "a/1", "b"]},
    ),
    Variant(  # QwenLM/Qwen2.5-VL, qwen-vl-finetune: several images
        "qwen_finetune.json",
        [
            {"images": ["red.png", "blue.png"],
             "conversations": [_human("<image>\n<image>\nWhich is red?"), _gpt("1")]},
            {"images": ["blue.png"], "conversations": [_human("<image>\nBlue?"), _gpt("2")]},
        ],
        "sharegpt",
        [("Which is red?", "1", 2), ("Blue?", "2", 1)],
    ),
    Variant(  # QwenLM/Qwen-VL, finetune: images in the text
        "qwen_vl.json",
        [{"id": "a", "conversations": [
            {"from": "user", "value": "<img>red.png</img>\nRed?"}, {"from": "assistant", "value": "1"}]}],
        "sharegpt",
        [("Red?", "1", 1)],
    ),  # fmt: skip
    Variant(  # OpenGVLab/InternVL: images among words
        "internvl.jsonl",
        [
            {"id": 0, "image": ["red.png", "blue.png"], "width_list": [32, 32],
             "conversations": [_human("Image-1: <image>\nImage-2: <image>\nWhich is red?"), _gpt("Image-1")]},
            {"id": 1, "image": "blue.png", "conversations": [_human("<image>\nBlue?"), _gpt("2")]},
        ],
        "llava",
        [(["Image-1: ", None, "\nImage-2: ", None, "\nWhich is red?"], "Image-1", 2), ([None, "Blue?"], "2", 1)],
        columns={"id": ["0", "1"]},
    ),  # fmt: skip
    Variant(  # hiyouga/LLaMA-Factory, mllm_demo.json
        "llama_factory.json",
        [{"messages": [_user("<image>Red?"), _assistant("1"), _user("Sure?"), _assistant("Yes.")],
          "images": ["images/red.png"]}],
        "messages",
        [("Red?", "1", 1), (HISTORY, "Yes.", 1)],
    ),  # fmt: skip
    Variant(  # modelscope/ms-swift, sharegpt
        "swift.jsonl",
        [{"system": "Be brief.", "images": ["red.png"],
          "conversation": [{"human": "<image>Red?", "assistant": "1"}, {"human": "Sure?", "assistant": "Yes."}]}],
        "sharegpt",
        [([{"role": "system", "content": "Be brief."}, _user("Red?")], "1", 1),
         ([{"role": "system", "content": "Be brief."}, *HISTORY], "Yes.", 1)],
    ),  # fmt: skip
    Variant(  # modelscope/ms-swift, query and response, with history
        "swift_query.jsonl",
        [{"query": "<image>Sure?", "response": "Yes.", "images": ["red.png"], "history": [["Red?", "1"]]}],
        "csv",
        [([_user([["text", "Red?"]]), _assistant([["text", "1"]]), _user([["image", None], ["text", "Sure?"]])],
          "Yes.", 1)],
    ),  # fmt: skip
    Variant(  # OpenAI, vision fine-tuning: the image in a message of its own, as a data URL; weight 0 is not learnt
        "openai.jsonl",
        [{"messages": [
            {"role": "developer", "content": "Be brief."},
            _user("Red?"),
            _user([{"type": "image_url", "image_url": {"url": _data_url(0), "detail": "low"}}]),
            {**_assistant("I do not know."), "weight": 0},
            _user("Look."),
            {**_assistant("1"), "weight": 1}]}],
        "messages",
        [([{"role": "system", "content": "Be brief."}, _user("Red?"), _assistant("I do not know."), _user("Look.")],
          "1", 1)],
    ),  # fmt: skip
    Variant(  # QwenLM/Qwen2.5-VL, messages with paths in their parts
        "qwen_messages.jsonl",
        [{"messages": [
            _user([{"type": "image", "image": "file://red.png"}, {"type": "text", "text": "Red?"}]), _assistant("1")]},
         {"messages": [_user([{"image": "blue.png"}, {"text": "Blue?"}]), _assistant([{"text": "2"}])]}],
        "messages",
        ONE_BY_ONE,
    ),  # fmt: skip
    Variant(  # TRL, prompt-completion with strings, which become messages, so that the chat template is used
        "trl.jsonl",
        [{"prompt": "Red?", "completion": "1", "image": "red.png"},
         {"prompt": "<image>Blue?", "completion": "2", "image": "blue.png"}],
        "prompt-completion",
        ONE_BY_ONE,
    ),  # fmt: skip
    Variant(  # TRL, prompt-completion in messages
        "trl_messages.json",
        {"data": [{"images": ["red.png"],
                   "prompt": [_user([{"type": "image"}, {"type": "text", "text": "Red?"}])],
                   "completion": [_assistant([{"type": "text", "text": "1"}])]}]},
        "prompt-completion",
        [("Red?", "1", 1)],
    ),  # fmt: skip
    Variant(
        "table.csv",
        "image,question,answer\nred.png,Red?,1\nimages/blue.png,\"Blue, or\nnot?\",2\n",
        "csv",
        [("Red?", "1", 1), ("Blue, or\nnot?", "2", 1)],
        columns={"answer": ["1", "2"]},
    ),  # fmt: skip
    Variant(
        "table.tsv",
        "\ufeffBild\tFrage\tAntwort\nred.png\tRed?\t1\nblue.png\tBlue?\t2\n",
        "csv",
        ONE_BY_ONE,
        options={"columns": {"image": "Bild", "question": "Frage", "answer": "Antwort"}},
        columns={"answer": ["1", "2"]},
    ),
    Variant(  # imagefolder's metadata
        "metadata.csv",
        "file_name;question\nred.png;Red?\nblue.png;Blue?\n",
        "csv",
        [("Red?", None, 1), ("Blue?", None, 1)],
    ),
    Variant(  # records by their ids, options and the index of the right one, as in ScienceQA
        "problems.json",
        {"7": {"question": "Which?", "choices": ["red", "blue"], "answer": 1, "image": "red.png"}},
        "csv",
        [("Which?\nOptions: (A) red (B) blue", "blue", 1)],
        columns={"id": ["7"], "answer": ["blue"], "choices": [["red", "blue"]]},
    ),
    Variant(  # Alpaca
        "alpaca.json",
        [{"instruction": "Add.", "input": "1 + 1", "output": "2"},
         {"instruction": "Say hi.", "input": "", "output": "hi"}],
        "csv",
        [("Add.\n1 + 1", "2", 0), ("Say hi.", "hi", 0)],
    ),
    Variant(  # vis-nlp/ChartQA
        "chartqa.json",
        [{"imgname": "red.png", "query": "Red?", "label": "1"}, {"imgname": "blue.png", "query": "Blue?", "label": 2}],
        "csv",
        ONE_BY_ONE,
        columns={"answer": ["1", "2"]},
    ),
    Variant(  # HuggingFaceM4/the_cauldron, HuggingFaceM4/FineVision
        "cauldron.parquet",
        _parquet_of_texts,
        "sharegpt",
        [("Red?", "1", 1), (HISTORY, "Yes.", 1)],
    ),
    Variant("rows.parquet", _parquet_of_the_hub, "csv", ONE_BY_ONE, columns={"answer": ["1", "2"]}),
    Variant("messages.parquet", _parquet_of_messages, "messages", [("Red?", "1", 1)] * 2),
]  # fmt: skip
