"""Datasets and their columns."""

from datasets import Dataset

from tests.faults.fault import Fault, Scene
from tests.testing.tiny import pair_dataset


def _without_images(scene: Scene) -> None:
    scene.trainer(pair_dataset(4).remove_columns("images"))


FAULTS = [
    Fault(
        "a dataset without a row",
        "before the first step",
        r"`train_dataset` is empty: it has no row",
        lambda scene: scene.trainer(Dataset.from_list([])),
    ),
    Fault(
        "pairs without a column of images",
        "before the first step",
        r"has pairs but no `images` or `image` column",
        _without_images,
    ),
]
