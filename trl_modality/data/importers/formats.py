"""The formats that people have data in: which fields tell one, and what a record of it says."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...views import PAIR_PROMPTS, PairError
from .records import Record
from .turns import Turn, check_order, turns_of


@dataclass(frozen=True)
class Said:
    """What a record says, before its images are found.

    Args:
        prompts: The turns of each prompt by its column; `prompt` alone, or the two of a pair.
        completion: The turns that follow either prompt, where the format keeps them apart; else they are in `prompt`.
        images: The images of the record, by column; they are as the record has them.
        labels: `id`, `answer`, `category`, `facts` and `choices`, as the record has them.
    """

    prompts: dict[str, list[Turn]]
    completion: list[Turn] | None = None
    images: dict[str, list[Any]] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    named: str = ""
    """The field of the record that its prompt is in, for messages."""


NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id", "question_id", "uid"),
    "image": (
        *("images", "image", "image_path", "image_file", "image_files", "file_name", "filename"),
        *("img", "img_path", "imgname", "picture"),
    ),
    "vision_centric_images": ("vision_centric_images",),
    "text_rich_images": ("text_rich_images",),
    "teacher_images": ("teacher_images",),
    "facts": ("facts",),
    "question": ("question", "query", "instruction", "problem", "prompt", "user", "input"),
    "completion": ("completion", "response", "output", "solution", "assistant"),
    "answer": ("answer", "final_answer", "label"),
    "choices": ("choices", "options"),
    "category": ("category",),
    "system": ("system",),
}
"""What a field is called, in order of preference; `columns` names another."""
TEACHER_PROMPT = "teacher_prompt"
IMAGES_OF: dict[str, str] = {
    "text_rich_prompt": "text_rich_images",
    "vision_centric_prompt": "vision_centric_images",
    TEACHER_PROMPT: "teacher_images",
}
"""The field of the images of a prompt, where they are not those of the pair."""


class Fields:
    """Finds a field of a record by what it may be called, and remembers which fields were read.

    Args:
        columns: Our name of a field → its name in the file, in place of the usual ones.
    """

    def __init__(self, columns: Mapping[str, str]):
        if unknown := sorted(columns.keys() - NAMES.keys()):
            raise ValueError(f"`columns`: no field {unknown[0]!r}; there is {', '.join(NAMES)}.")
        self.columns = dict(columns)
        self.read: set[str] = set()

    def name_in(self, present: Collection[str], wanted: str, *, besides: Collection[str] = ()) -> str | None:
        """What a field is called among the fields that are present; `None` where there is none."""
        names = (self.columns[wanted],) if wanted in self.columns else NAMES[wanted]
        return next((name for name in names if name in present and name not in besides), None)

    def value(self, record: Record, wanted: str) -> Any:
        """The value of a field; `None` where it is missing or empty."""
        is_text = wanted in ("facts", "answer", "question", "completion")  # empty, they are a fault of the record
        empty = set() if is_text else {name for name, value in record.items() if value in ("", [])}
        name = self.name_in([key for key, value in record.items() if value is not None and key not in empty], wanted)
        if name is None:
            self.read.update(empty & {*NAMES[wanted], self.columns.get(wanted)})
            return None
        self.read.add(name)
        return record[name]

    def labels(self, record: Record) -> dict[str, Any]:
        """The fields of a record that are taken over."""
        found = {name: self.value(record, name) for name in ("id", "answer", "category", "facts", "choices")}
        return {name: value for name, value in found.items() if value is not None}

    def images(self, record: Record, wanted: str = "image") -> list[Any]:
        """The images of a record: of a list, of one, or of a list in JSON as CSV files have it."""
        value = self.value(record, wanted)
        if isinstance(value, str) and value.startswith("["):
            value = _parsed(value) or value  # a path with a bracket, perhaps
        if value is None:
            return []
        return list(value) if isinstance(value, list | tuple) else [value]


@dataclass(frozen=True)
class Format:
    """A format: its name in messages, the fields that tell it, and how a record is read."""

    title: str
    looks_for: str
    tells: Callable[[Fields, Collection[str]], bool]
    read: Callable[[Fields, Record, str], Said]


def _conversation(*keys: str) -> Callable[[Fields, Record, str], Said]:
    def read(fields: Fields, record: Record, where: str) -> Said:
        key = next((key for key in keys if record.get(key) is not None), keys[0])
        said = _required(record, key, where)
        turns = turns_of(_messages_in(said, key, where) if isinstance(said, str) else said, key, where)
        fields.read.add(key)
        system = fields.value(record, "system")
        if isinstance(system, str) and system.strip() and not any(turn.role == "system" for turn in turns):
            turns.insert(0, Turn("system", (system,)))
        check_order(turns, key, where)
        return Said({"prompt": turns}, None, {"images": fields.images(record)}, fields.labels(record), key)

    return read


def _messages_in(text: str, key: str, where: str) -> Any:
    """The messages that tables have as a text: JSON, or a list as Python prints it."""
    messages = _parsed(text)
    if not isinstance(messages, list):
        raise PairError(where, f"`{key}` is a text, not a list of messages.", "In a table, write the list as JSON.")
    return messages


def _required(record: Record, key: str, where: str) -> Any:
    if record.get(key) is None:
        has = ", ".join(name for name, value in record.items() if value is not None) or "nothing"
        raise PairError(where, f"it has no `{key}`.", f"It has {has}: give all records of a file the same form.")
    return record[key]


def _prompt_completion(fields: Fields, record: Record, where: str) -> Said:
    prompt = turns_of(_required(record, "prompt", where), "prompt", where)
    completion = None
    if record.get("completion") is not None:
        completion = turns_of(record["completion"], "completion", where, default_role="assistant")
    fields.read |= {"prompt", "completion"}
    prompt = [replace(turn, is_learnt=False) for turn in prompt]
    check_order([*prompt, *(completion or [])], "prompt", where)
    return Said({"prompt": prompt}, completion or [], {"images": fields.images(record)}, fields.labels(record))


def _pair(fields: Fields, record: Record, where: str) -> Said:
    names = (*PAIR_PROMPTS, *((TEACHER_PROMPT,) if record.get(TEACHER_PROMPT) is not None else ()))
    prompts = {name: turns_of(_required(record, name, where), name, where) for name in names}
    completion = []
    if record.get("completion") is not None:
        completion = turns_of(record["completion"], "completion", where, default_role="assistant")
    fields.read |= {*names, "completion"}
    for name, turns in prompts.items():
        check_order([*turns, *completion], name, where)
    images = {"images": fields.images(record)}
    images |= {
        name: fields.images(record, name)
        for name in (IMAGES_OF[each] for each in names)
        if record.get(name) is not None
    }
    labels = {name: value for name, value in fields.labels(record).items() if name != "facts"}
    return Said(prompts, completion, images, labels)


def _table_row(fields: Fields, record: Record, where: str) -> Said:
    question = fields.value(record, "question")
    if question is None:
        raise PairError(where, "it has no question.", "Fill it in, or leave the record out.")
    if "question" not in fields.columns and record.get("instruction") == question and record.get("input"):
        fields.read.add("input")  # the form of Alpaca: what to do, and with what
        question = f"{question}\n{record['input']}"
    labels = fields.labels(record)
    if "answer" in labels:
        labels["answer"] = answer_of(labels, where)
    completion = fields.value(record, "completion")
    if completion is None:
        completion, labels = labels.get("answer"), _final_answer(labels)
    turns = turns_of(_with_options(question, labels.get("choices")), "question", where)
    turns = [*_history(fields, record, where), *turns]
    system = fields.value(record, "system")
    if isinstance(system, str) and system.strip():
        turns.insert(0, Turn("system", (system,)))
    said = [] if completion is None else turns_of(_as_text(completion), "completion", where, default_role="assistant")
    return Said({"prompt": turns}, said, {"images": fields.images(record)}, labels, "question")


def _history(fields: Fields, record: Record, where: str) -> list[Turn]:
    """The turns of `history`, a list of [question, answer], as Alpaca's descendants and ms-swift have it."""
    history = record.get("history")
    if not history:
        return []
    fields.read.add("history")
    is_list = isinstance(history, list)
    if not is_list or not all(isinstance(each, list) and len(each) == 2 for each in history):
        raise PairError(where, "`history` is no list of questions with answers.", "Give [[question, answer], ...].")
    roles = ("user", "assistant")
    said = [{"role": role, "content": text} for each in history for role, text in zip(roles, each, strict=True)]
    return turns_of(said, "history", where)


def _one(answer: Any, where: str) -> Any:
    """The answer of a list of one; what people disagree on is not for a reader to decide."""
    if not isinstance(answer, list | tuple):
        return answer
    if len(answer) != 1:
        problem = f"its answer is a list of {len(answer)}."
        raise PairError(where, problem, "Name the field of the one right answer with `--columns answer=FIELD`.")
    return answer[0]


def _final_answer(labels: dict[str, Any]) -> dict[str, Any]:
    """The labels with the answer that stands behind the reasoning, as in GSM8K ("... #### 72")."""
    _, mark, final = str(labels.get("answer", "")).rpartition("####")
    return {**labels, "answer": final.strip()} if mark and final.strip() else labels


def answer_of(labels: Mapping[str, Any], where: str) -> Any:
    """The answer of a record, as the text of an option where it names one otherwise than by its letter: by a number,
    counted from 0 as in ScienceQA, or by a name of the file's own.

    Raises:
        PairError: it is a list of several.
    """
    answer, names, texts = _one(labels["answer"], where), *_options_of(labels.get("choices"))
    if not texts or str(answer) in texts:
        return answer
    if names != [chr(65 + place) for place in range(len(texts))] and str(answer) in names:
        return texts[names.index(str(answer))]
    is_index = not isinstance(answer, bool) and str(answer).isdecimal() and int(answer) < len(texts)
    is_number = isinstance(answer, str) and any(map(_is_number, texts))  # "4" beside "4.0" is no index
    return texts[int(answer)] if is_index and not is_number else answer


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _plain_text(fields: Fields, record: Record, where: str) -> Said:
    text = _required(record, "text", where)
    if not isinstance(text, str):
        raise PairError(
            where, f"`text` is {type(text).__name__}, not a string.", "Fill it in, or leave the record out."
        )
    fields.read.add("text")
    return Said({"text": [Turn("user", (text,))]}, None, {"images": fields.images(record)}, fields.labels(record))


def _with_options(question: Any, choices: Any) -> Any:
    """A question that states its options."""
    texts = choices_of(choices)
    if not texts or not isinstance(question, str) or "(A)" in question or "\nA." in question:
        return question
    return f"{question}\nOptions: " + " ".join(f"({chr(65 + i)}) {text}" for i, text in enumerate(texts))


def choices_of(value: Any) -> list[str] | None:
    """The options of a question as texts, in order; `None` of what is none of the forms of `_options_of`."""
    return _options_of(value)[1]


def _options_of(value: Any) -> tuple[list[str], list[str] | None]:
    """The names and the texts of options: of a list, of an object with a text for each name, of one with the lists
    `label` and `text` (ARC, CommonsenseQA), or of either as a text (JSON, or as Python prints it: MMMU)."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = _parsed(value)
    names: Sequence[Any] = ()
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        names, value = value.get("label") or (), value["text"]
    elif isinstance(value, Mapping):
        shown = {name: text for name, text in value.items() if text is not None}  # Parquet has all names in all rows
        names, value = list(shown), list(shown.values())
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or any(text is None or isinstance(text, list | Mapping) for text in value):
        return [], None
    return [str(name) for name in names], [str(text) for text in value]


def _parsed(text: str) -> Any:
    """What a text has in JSON or as Python prints it; `None` where it is neither."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(text)
    return None


def _has_table_fields(fields: Fields, present: Collection[str]) -> bool:
    question = fields.name_in(present, "question")
    return question is not None and (
        any(fields.name_in(present, name, besides=(question,)) for name in ("answer", "completion", "image"))
    )


FORMATS = {
    "pairs": Format(
        "pairs",
        "`text_rich_prompt` and `vision_centric_prompt`",
        lambda fields, present: set(PAIR_PROMPTS) <= set(present),
        _pair,
    ),
    "messages": Format(
        "messages of OpenAI's or Qwen's form",
        "`messages`",
        lambda fields, present: "messages" in present,
        _conversation("messages"),
    ),
    "llava": Format(
        "LLaVA conversations",
        "`conversations` with `image`",
        lambda fields, present: "conversations" in present and "image" in present,
        _conversation("conversations"),
    ),
    "sharegpt": Format(
        "ShareGPT conversations",
        "`conversations`, `conversation` or `texts`",
        lambda fields, present: bool({"conversations", "conversation", "texts"} & set(present)),
        _conversation("conversations", "conversation", "texts"),
    ),
    "prompt-completion": Format(
        "prompts and completions",
        "`prompt` and `completion`",
        lambda fields, present: {"prompt", "completion"} <= set(present),
        _prompt_completion,
    ),
    "csv": Format(
        "a table of questions",
        "a question (`question`, `query`, `instruction`, ...) beside an answer or an image",
        _has_table_fields,
        _table_row,
    ),
    "text": Format("texts", "`text`", lambda fields, present: "text" in present, _plain_text),
}
"""The formats by their names on the command line, in the order in which they are recognised."""


def recognise(present: Collection[str], fields: Fields, path: Any) -> str:
    """The format of a file by the fields of its first records.

    Raises:
        ValueError: it is none; the message says what was looked for and what was found.
    """
    for name, known in FORMATS.items():
        if known.tells(fields, present):
            return name
    looked_for = "; ".join(f"{known.looks_for} ({name})" for name, known in FORMATS.items())
    raise ValueError(
        f"{path} is in none of the known forms. Its records have {', '.join(sorted(present)) or 'no field'}. Looked "
        f"for: {looked_for}. Name fields of another name with `--columns question=FIELD answer=FIELD image=FIELD`."
    )
