"""Asking each thing once: requests are known by what is asked, and answers are kept and found again by that."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.asking.ask import Question, ask
from ..evaluation.models.requests import Generation, Generator, Request
from ..images import ImageFault, read_image
from ..resumable.records import OtherSettingsError, read_records
from ..views import PairError, View, describe_row, images_of


@dataclass(frozen=True)
class Wanted:
    """A request that is made when it is asked, and what messages call it."""

    key: str
    make: Callable[[], Request]
    name: str


def identity(generator: Generator) -> list[Any]:
    """What answers depend on of a model, for `content_key`; it reads values of all weights, so once is enough."""
    return [generator.name, getattr(generator, "settings", {})]


def content_key(model: Sequence[Any], prompt: Any, images: Sequence[str] = (), seed: int | None = None) -> str:
    """A hash of all that an answer depends on: the model and its settings, the prompt, the images, the seed.

    Args:
        model: Its `identity`.
        prompt: Its prompt, plain values.
        images: The digest of each image, by `image_digest`.
        seed: Of the draw.
    """
    asked = [*model, prompt, list(images), seed]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:32]


def image_digest(stored: Any) -> str:
    """A hash of an image as it is stored: of its bytes or those of its file, or of its pixels."""
    if isinstance(stored, Mapping) and stored.get("bytes") is not None:
        return hashlib.sha256(stored["bytes"]).hexdigest()
    path = stored.get("path") if isinstance(stored, Mapping) else stored
    if isinstance(path, str | os.PathLike) and Path(path).is_file():
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    image = read_image(stored)
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()


def image_digests(row: Mapping[str, Any], view: View) -> list[str]:
    """`image_digest` of each image of a view; raises `PairError` where one cannot be read."""
    digests = []
    for position, stored in enumerate(images_of(row, view)):
        try:
            digests.append(image_digest(stored))
        except ImageFault as fault:
            raise PairError(describe_row(row), f"image {position} {fault.problem}", fault.remedy) from fault
    return digests


def ask_once(
    generator: Generator,
    wanted: Iterable[Wanted],
    *,
    file: str | os.PathLike | None = None,
    known: Mapping[str, Generation] | None = None,
    batch_size: int = 16,
    settings: Mapping[str, Any] | None = None,
    show_progress: bool = True,
    restart: bool = False,
) -> dict[str, Generation]:
    """The answer to each request, by its key. Requests of one key are asked once; none that is known is asked.

    Args:
        generator: The model; in a distributed run every process makes this call.
        wanted: The requests.
        file: JSONL file for the answers as they come; an interrupted one is continued, with the same batches.
        known: Answers of before.
        batch_size: Requests in a batch.
        settings: What is done, for the header of the file; a file of other settings is refused.
        show_progress: Draw a progress bar.
        restart: Move a file of other settings aside.

    Raises:
        ValueError: a request cannot be asked, or not one of the first has an answer; the row is named.
        Interrupted: by Ctrl-C; what is there is in the file.
    """
    found = dict(known or {})
    first: dict[str, Wanted] = {}
    for each in wanted:
        first.setdefault(each.key, each)
    # Those with and without images are batches of their own, as models take them
    questions = [Question(key, each.make, name=each.name) for key, each in first.items() if key not in found]
    if questions:
        try:
            records = ask(
                generator, questions, None, file, batch_size, show_progress, settings=settings, restart=restart
            )
        except OtherSettingsError as error:
            raise OtherSettingsError(
                error.found,
                "Go on with `--restart --reuse` and this folder: what it has is not asked again where the same is "
                "asked. Or give another folder.",
            ) from error
        found |= {record["key"]: generation_of(record) for record in records}
    return {key: found[key] for key in first}


def generation_of(record: Mapping[str, Any]) -> Generation:
    """The answer that a record tells of."""
    return Generation(record["text"], record["is_complete"], failure=record.get("failure"))


def known_answers(files: Iterable[str | os.PathLike]) -> dict[str, Generation]:
    """The answers in files of earlier calls, by what was asked. One that failed is not known: it is asked again.

    Raises:
        ValueError: a file holds no answers, or a broken line.
        OSError: it cannot be read.
    """
    found: dict[str, Generation] = {}
    for file in files:
        _, records = read_records(file, {"text": str, "is_complete": bool})
        found |= {record["key"]: generation_of(record) for record in records if not record.get("failure")}
    return found


def write_answers(answers: Mapping[str, Generation], file: str | os.PathLike) -> None:
    """Write answers in their order, in the form that `known_answers` reads."""
    lines: list[dict[str, Any]] = [{"format": 1, "settings": {"kept": "answers by what was asked"}}]
    for key, each in answers.items():
        failure = {} if each.failure is None else {"failure": each.failure}
        lines.append({"key": key, "text": each.text, "is_complete": each.is_complete, **failure})
    Path(file).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="ascii")
