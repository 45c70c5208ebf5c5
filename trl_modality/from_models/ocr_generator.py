"""OCR as a generator: it answers any request by the words of its pictures, and reads no prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data.ocr import OcrReader
from ..evaluation.models.requests import Generation, Request


class OcrGenerator:
    """Answers a request by the words in its images, in reading order, rows of tables kept as rows.

    Args:
        reader: Reads a picture; by default an `OcrReader`.
    """

    name = "ocr"
    reads_prompt = False
    """So that its answers are kept by their pictures alone."""

    def __init__(self, reader: Any = None):
        self._reader = reader or OcrReader()
        self.answered: dict[int, Generation] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What the words depend on."""
        return self._reader.settings

    def __call__(self, requests: Sequence[Request]) -> list[Generation]:
        """The words of each request's images, an empty line between two images."""
        self.answered = {}
        for position, request in enumerate(requests):
            try:
                texts = [self._reader.read(image) for image in request.images]
            except Exception as error:  # RapidOCR has errors of its own, of pictures a few pixels high or wide
                failure = f"OCR cannot read the picture ({type(error).__name__}: {error})"
                self.answered[position] = Generation("", False, failure=failure)
                continue
            self.answered[position] = Generation("\n\n".join(filter(None, texts)), True)
        return [self.answered[i] for i in range(len(requests))]
