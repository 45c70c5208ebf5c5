"""Pairs by models: facts of pictures in words (`transcribe`), completions in the model's own words (`trace`)."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names


if TYPE_CHECKING:
    from .ocr_generator import OcrGenerator
    from .trace import trace
    from .transcribe import Transcription, transcribe

__all__ = ["OcrGenerator", "Transcription", "trace", "transcribe"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "OcrGenerator": "ocr_generator",
        "Transcription": "transcribe",
        "trace": "trace",
        "transcribe": "transcribe",
    },
)
