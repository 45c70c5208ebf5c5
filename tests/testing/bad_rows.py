"""Datasets of which some rows cannot be read."""

from datasets import Dataset, Image

from tests.testing.tiny import pair_dataset


def unreadable(bad, count: int = 8, first: int = 0) -> Dataset:
    """Pairs, of which those at the positions `bad` raise when they are read."""
    names = {f"pair-{first + i}" for i in bad}

    def read(batch):
        if names & set(batch["id"]):
            raise OSError("the disk is gone")
        return batch

    # Images undecoded, as in a dataset without a transform
    return pair_dataset(count, first).cast_column("images", [Image(decode=False)]).with_transform(read)
