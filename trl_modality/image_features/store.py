"""Image features on disk: a file for each image, in a folder for each state of the weights."""

import contextlib
import os
import shutil
from pathlib import Path
from uuid import uuid4

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers.utils import logging

from .records import Record


logger = logging.get_logger(__name__)

SUFFIX = ".features"
KEPT_FREE = 0.05
"""Share of a disk that is left to others, such as the checkpoints of the run."""
DIGEST_BYTES = 16


class FeatureStore:
    """A folder of records. Several processes may read and write it at a time.

    A file is what safetensors writes, and a hash of it: of a write that was interrupted nothing is read.

    Args:
        folder: Made where there is none.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.bytes_written = 0
        self.is_full = False

    def read(self, key: str, device: torch.device) -> Record | None:
        """The record of a key; `None` where there is none, or none that is whole."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
        if xxhash.xxh3_128(body).digest() != digest:
            return None
        try:
            return {name: tensor.to(device) for name, tensor in load(body).items()}
        except (SafetensorError, ValueError):
            return None

    def write(self, key: str, record: Record) -> None:
        """Keep a record; where the disk is full, say so once and keep no more."""
        if self.is_full:
            return
        # Copies: what is a part of a tensor, or of the same as another, cannot be written as it is
        body = save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in record.items()})
        path = self._path(key)
        unfinished = path.with_name(f".{path.name}.{uuid4().hex}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            usage = shutil.disk_usage(path.parent)
            if usage.free - len(body) < KEPT_FREE * usage.total:
                self._stop(f"less than {KEPT_FREE:.0%} of its disk would be free")
                return
            unfinished.write_bytes(body + xxhash.xxh3_128(body).digest())
            unfinished.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            self._stop(error.strerror or str(error))
            return
        self.bytes_written += len(body) + DIGEST_BYTES

    def _stop(self, why: str) -> None:
        self.is_full = True
        logger.warning(
            f"`cache_image_features`: no more features of images are written to {self.folder} ({why}). Those that "
            "are there are read; images without are encoded each time. Free space, or give another folder."
        )

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"


def bytes_in(folder: Path) -> int:
    """Bytes of all records below a folder."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            if name.endswith(SUFFIX):
                with contextlib.suppress(OSError):  # another process may be replacing it
                    total += os.stat(os.path.join(root, name)).st_size
    return total
