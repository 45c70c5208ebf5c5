"""The turns of a conversation as people write them: who speaks, what is said, and where an image is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...views import PairError
from .faults import plural


ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "bing", "bard", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}
"""What the roles of ShareGPT, OpenAI, LLaMA-Factory and others are called here."""
FOLLOWS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Which roles may follow a role; "" is the beginning."""
# As LLaVA, Qwen, Llama, InternLM-XComposer and Qwen-VL write the place of an image; the last has its file in it
SLOT = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>|<\|image_pad\|>|<\|image\|>|<image>|<Img><ImageHere></Img>"
    r"|<ImageHere>|<img>(?P<file>[^<>]+)</img>"
)
OTHER_MEDIA = re.compile(r"<video>|<audio>|<\|video_pad\|>")


@dataclass(frozen=True)
class Shown:
    """The place of an image in a turn: `image` as stored, or `None` for the next of the conversation's images."""

    image: Any = None


@dataclass(frozen=True)
class Turn:
    """What one role says: texts and images in order."""

    role: str
    parts: tuple[str | Shown, ...]
    is_learnt: bool = True
    """Whether an assistant's turn is trained on; otherwise it is only part of the history."""

    @property
    def text(self) -> str:
        """All that is said in words."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[Shown]:
        """The images that are shown, in order."""
        return [part for part in self.parts if isinstance(part, Shown)]


def turns_of(messages: Any, field: str, where: str, *, default_role: str = "user") -> list[Turn]:
    """The turns of a text, or of a list of messages with `role` and `content`, or `from` and `value`.

    Args:
        messages: The value of a field of the record.
        field: Its name, for messages.
        where: What messages call the record.
        default_role: Of a text.

    Raises:
        PairError: it is neither, or a message has no text, an unknown role or an unknown part.
    """
    if isinstance(messages, str):
        return [Turn(default_role, _parts_of_text(messages, where))]
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        kind = type(messages).__name__
        raise PairError(where, f"`{field}` is {kind}, not a list of messages.", "Give a list, or a text.")
    turns: list[Turn] = []
    for place, message in enumerate(_one_by_one(messages)):
        turn = _turn(message, f"message {place} of `{field}`", where)
        before = turns[-1] if turns else turn
        if turns and turn.role == before.role == "user" and not (turn.text.strip() and before.text.strip()):
            turns[-1] = replace(
                before, parts=(*before.parts, *turn.parts)
            )  # a question, then its image, as in OpenAI's
        else:
            turns.append(turn)
    return turns


def _one_by_one(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The messages, those that hold a question with its answer (ms-swift's `human` and `assistant`) as two."""
    for message in messages:
        pair = [(role, message.get(role)) for role in ("human", "user", "assistant") if message.get(role) is not None]
        if {"role", "from"} & message.keys() or len(pair) != 2:
            yield message
        else:
            yield from ({"role": role, "content": content} for role, content in pair)


def _turn(message: Mapping[str, Any], name: str, where: str) -> Turn:
    said = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    role = ROLES.get(str(said).strip().lower())
    if role is None:
        raise PairError(where, f"{name} has the role {said!r}.", f"Known are {', '.join(ROLES)}.")
    if content is None and message.get("tool_calls"):
        raise PairError(where, f"{name} calls tools, which this reader does not read.", "Write the call as a text.")
    if content is None:
        raise PairError(where, f"{name} has no `content`.", "Fill it in, or leave the message out.")
    parts = _parts_of_text(content, where) if isinstance(content, str) else _parts_of_blocks(content, name, where)
    # An assistant's message that is not learnt has `weight` 0 in OpenAI's files, and `loss` false in ms-swift's
    is_learnt = all(message.get(mark) is None or bool(message[mark]) for mark in ("weight", "loss"))
    return Turn(role, parts, is_learnt)


def _parts_of_text(text: str, where: str) -> tuple[str | Shown, ...]:
    if other := OTHER_MEDIA.search(text):
        raise PairError(where, f"it has a place for {other[0]!r}.", "Only images are read: leave such records out.")
    parts: list[str | Shown] = []
    end = 0
    for slot in SLOT.finditer(text):
        parts += [text[end : slot.start()], Shown(slot["file"])]
        end = slot.end()
    return tuple(part for part in (*parts, text[end:]) if part != "")


def _parts_of_blocks(content: Any, name: str, where: str) -> tuple[str | Shown, ...]:
    blocks = [content] if isinstance(content, Mapping) else content
    if not isinstance(blocks, Sequence):
        raise PairError(
            where, f"the `content` of {name} is {type(content).__name__}.", "Give a text or a list of parts."
        )
    parts: list[str | Shown] = []
    for block in blocks:
        if isinstance(block, str):
            parts += _parts_of_text(block, where)
            continue
        known = {key: value for key, value in block.items() if value is not None} if isinstance(block, Mapping) else {}
        kind = known.get("type", next((key for key in ("text", "image") if key in known), None))
        if kind in ("text", "input_text", "output_text") and isinstance(known.get("text"), str):
            parts += _parts_of_text(known["text"], where)
        elif kind in ("image", "image_url", "input_image"):
            parts.append(Shown(_image_of_block(known)))
        else:
            raise PairError(
                where,
                f"{name} has a part of type {kind!r}.",
                "Known are 'text' with `text`, 'image_url' with `image_url`, and 'image' with or without `image`.",
            )
    return tuple(parts)


def _image_of_block(block: Mapping[str, Any]) -> Any:
    """The image of a part of OpenAI's, Qwen's or Anthropic's; `None` where it is only the place of one."""
    value = next(
        (block[key] for key in ("image_url", "image", "url", "path", "base64", "source") if key in block), None
    )
    if isinstance(value, Mapping) and "url" in value:
        return value["url"]
    if isinstance(value, Mapping) and value.get("type") == "base64":
        return f"data:{value.get('media_type', 'image')};base64,{value.get('data', '')}"
    return f"data:image;base64,{value}" if "base64" in block and value is block["base64"] else value


def check_order(turns: Sequence[Turn], field: str, where: str) -> None:
    """Refuse turns out of order: after a system's, user and assistant take turns, and tools answer an assistant.

    Raises:
        PairError: names the message, what it follows, and the remedy.
    """
    before = ""
    for place, turn in enumerate(turns):
        if turn.role not in FOLLOWS[before]:
            after = f"follows one of the {before}" if before else "comes first"
            raise PairError(
                where,
                f"message {place} of `{field}`, of the {turn.role}, {after}: the turns are out of order.",
                f"There belongs one of the {' or the '.join(FOLLOWS[before])}: mend the order, or join the two.",
            )
        before = turn.role


def place_images(turns: Sequence[Turn], images: Sequence[Any], field: str, where: str) -> list[Turn]:
    """The turns with every image in its place.

    The k-th slot without an image of its own is that of the k-th of `images`. Without any slot the images stand before
    the first user's text. A turn's only slot moves before its text, and so do slots that all stand at its end, as in
    LLaVA's own code; slots in a system's text move to the first user's turn. Slots among words stay.

    Raises:
        PairError: more slots than images or fewer, or a slot in an answer.
    """
    n_slots = sum(shown.image is None for turn in turns for shown in turn.images)
    own = [shown.image for turn in turns for shown in turn.images if shown.image is not None]
    if n_slots == 0 and own == list(images):
        images = []  # in the messages, and in a column of their own too
    if n_slots != len(images) and not (n_slots == 0 and images and not own):
        raise PairError(
            where,
            f"`{field}` has {plural(n_slots, 'place')} for an image{f' beside {len(own)} with one' if own else ''}, "
            f"and the record has {plural(len(images), 'image')}.",
            "Give each image one place (`<image>`), in order, or leave all places out.",
        )
    if answer := next((turn for turn in turns if turn.role == "assistant" and turn.images), None):
        raise PairError(
            where,
            f"an answer in `{field}` has a place for an image ({answer.text.strip()[:40]!r}).",
            "Take it out: a model answers in words.",
        )
    rest = iter(images)
    filled = [
        replace(turn, parts=tuple(_filled(part, rest) if isinstance(part, Shown) else part for part in turn.parts))
        if turn.images
        else turn
        for turn in turns
    ]
    first = next((place for place, turn in enumerate(filled) if turn.role == "user"), None)
    if first is None:
        raise PairError(where, f"`{field}` has no turn of a user.", "Give a question.")
    early = [shown for turn in filled[:first] for shown in turn.images]
    early += [Shown(image) for image in rest]  # of a conversation without a slot
    moved = [replace(turn, parts=(turn.text.strip(),)) if turn.images else turn for turn in filled[:first]]
    moved = [turn for turn, before in zip(moved, filled, strict=False) if turn.text or not before.images]
    question = replace(filled[first], parts=(*early, *filled[first].parts))
    return [_tidy(turn) for turn in (*moved, question, *filled[first + 1 :])]


def _filled(shown: Shown, rest: Any) -> Shown:
    return Shown(next(rest)) if shown.image is None else shown


def _tidy(turn: Turn) -> Turn:
    """The turn with images before its text, unless they stand among words, and then without blanks at both ends; one
    without images as it is, since an answer may be code whose first line is indented."""
    images, text = turn.images, turn.text.strip()
    if not images:
        return turn
    kinds = [isinstance(part, Shown) for part in turn.parts if isinstance(part, Shown) or part.strip()]
    changes = sum(a != b for a, b in zip(kinds, kinds[1:], strict=False))
    if len(images) < 2 or changes < 2:
        return replace(turn, parts=(*images, *([text] if text else [])))
    parts = [part for part in turn.parts if isinstance(part, Shown) or part]
    if isinstance(parts[0], str):
        parts[0] = parts[0].lstrip()
    if isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    return replace(turn, parts=tuple(part for part in parts if part != ""))
