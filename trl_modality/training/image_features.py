"""`cache_image_features` in a run: when features are read and kept, and what is logged of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, is_peft_model
from transformers.utils import logging

from ..image_features.cache import ImageFeatureCache
from ..image_features.store import bytes_in
from .metrics import sum_dtype


logger = logging.get_logger(__name__)

TOO_FEW = 0.01
"""A hit rate below it, after a whole epoch, is no cache."""
ENOUGH_IMAGES = 32
"""Images of an epoch after which that is said."""


class CachedImages:
    """The cache of a trainer; without `cache_image_features` it does nothing.

    Raises:
        ValueError: the tower trains, or its features cannot be cached otherwise; its weights are to be sharded.
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self._cache: ImageFeatureCache | None = None
        folder = getattr(trainer.args, "cache_image_features", None)
        if not folder:
            return
        _reject_sharded(trainer)
        model = trainer.model.get_base_model() if is_peft_model(trainer.model) else trainer.model
        self._cache = ImageFeatureCache(model, Path(folder))
        self._begin()

    def _begin(self) -> None:
        self._logged = self._first_epoch = (0, 0)
        self._epochs, self._is_warned = 0, False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A context in which the model has its features from the cache: a training, or an evaluation."""
        if self._cache is None:
            yield
            return
        with self._cache.attached():
            yield

    def begin_training(self) -> None:
        """Count anew."""
        if self._cache is not None:
            self._cache.asked = self._cache.found = 0
            self._begin()

    def end_epoch(self) -> None:
        """An epoch is over: from the first on, images are known."""
        if self._cache is not None:
            self._epochs += 1
            if self._epochs == 1:
                self._first_epoch = self._cache.asked, self._cache.found

    def logs(self, *, at_the_end: bool) -> dict[str, float]:
        """Share of the images since the last log that were not encoded, and GiB on disk, over all ranks.

        Every rank must call it; `at_the_end` it is of the whole training, and said in the log.
        """
        if self._cache is None:
            return {}
        accelerator, cache = self._trainer.accelerator, self._cache
        before = (0, 0) if at_the_end else self._logged
        is_main = self._trainer.is_world_process_zero()
        counts = [cache.asked - before[0], cache.found - before[1], 0 if at_the_end else cache.bytes_written]
        if at_the_end:  # counted: what was there before is not known exactly where ranks began to write
            counts.append(bytes_in(cache.folder) if is_main else 0)
        else:
            counts.append(cache.bytes_before if is_main else 0)
        self._logged = cache.asked, cache.found
        device = accelerator.device
        sums = accelerator.reduce(torch.tensor(counts, dtype=sum_dtype(device), device=device), "sum").tolist()
        asked, found, written, there = sums
        logs = {"image_cache_gib": (written + there) / 2**30}
        if asked:
            logs["image_cache_hit_rate"] = found / asked
        if is_main:
            self._warn_if_useless()
            if at_the_end and asked:
                logger.info(
                    f"`cache_image_features`: {found:,.0f} of {asked:,.0f} images were not encoded; "
                    f"{(written + there) / 2**30:,.3f} GiB of features in {cache.folder}."
                )
        return logs

    def _warn_if_useless(self) -> None:
        assert self._cache is not None
        asked, found = self._cache.asked - self._first_epoch[0], self._cache.found - self._first_epoch[1]
        if self._is_warned or not self._epochs or asked < ENOUGH_IMAGES or found >= TOO_FEW * asked:
            return
        self._is_warned = True
        if not self._cache.is_full:
            logger.warning(
                f"`cache_image_features`: after a whole epoch {found} of {asked} images were found. The images are "
                "others each time, as with augmentation, or the processor changes them: leave "
                "`cache_image_features` out, it only fills the disk."
            )


def _reject_sharded(trainer: Any) -> None:
    """Raise where the weights of the tower will be sharded.

    All ranks gather them for a forward: a rank that finds its images on disk would not come, and the others wait.
    """
    accelerator = trainer.accelerator
    plugin = accelerator.state.deepspeed_plugin
    if accelerator.distributed_type == DistributedType.FSDP or (plugin is not None and plugin.zero_stage == 3):
        raise ValueError(
            "`cache_image_features` with FSDP or ZeRO-3: ranks that find their images on disk would not gather the "
            "weights of the tower with the others. Use DDP or ZeRO-2, or leave it out."
        )
    if trainer.args.torch_compile:
        raise ValueError("`cache_image_features` reads files within the forward: set `torch_compile=False`.")
