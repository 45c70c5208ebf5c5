"""Images of the views, and their sizes."""

from datasets import Dataset, Features, List
from datasets import Image as ImageFeature
from PIL import Image

from tests.faults.fault import Fault, Scene
from tests.testing.tiny import PAIR_FEATURES, pair_row, picture, tiny_llava
from trl_modality import PairedCollator


FEATURES = Features({**PAIR_FEATURES, "text_rich_images": List(ImageFeature())})
SLOT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "red=1. red?"}]}]


def words_alone(**fields):
    """A trainer on four pairs whose text_rich view is words alone, the third one with other fields."""

    def provoke(scene: Scene) -> None:
        rows = [{**pair_row(i), "text_rich_images": []} for i in range(4)]
        rows[2] |= fields
        scene.trainer(Dataset.from_list(rows, features=FEATURES))

    return provoke


def collated(**fields):
    """A collator on pair 2 with other fields, some of which no dataset with the columns of the others could store."""

    def provoke(scene: Scene) -> None:
        PairedCollator(tiny_llava()[1])([{**pair_row(2), **fields, "__index__": 2}])

    return provoke


def narrow(scene: Scene) -> None:
    rows = [pair_row(i) for i in range(4)]
    rows[2]["images"] = [Image.new("RGB", (3000, 1))]
    scene.trainer(Dataset.from_list(rows, features=PAIR_FEATURES), max_pixels=256)


def other_collator(scene: Scene) -> None:
    scene.trainer(max_pixels=256, data_collator=PairedCollator(tiny_llava()[1]))


FAULTS = [
    Fault(
        "neither view of a pair has an image",
        "before the first step",
        r"row 2, id='pair-2': neither view has an image\. Give it in `images`",
        words_alone(images=[]),
    ),
    Fault(
        "a text_rich view of words alone (`text_rich_images: []`) has an image slot",
        "before the first step",
        r"row 2, id='pair-2': `text_rich_images` is empty, but `text_rich_prompt` has 1 image slot\(s\)\. Take",
        collated(text_rich_prompt=SLOT, text_rich_images=[]),
    ),
    Fault(
        "a view has more images than slots",
        "before the first step",
        r"row 2, id='pair-2': `text_rich_prompt` has 1 image slot\(s\), but the text_rich view has 2 image\(s\)",
        collated(text_rich_prompt=SLOT, text_rich_images=[picture(1), picture(2)]),
    ),
    Fault(
        "a picture view without a picture",
        "before the first step",
        r"row 2, id='pair-2': the vision_centric view has no image\. .* only the text_rich view may be words alone",
        collated(vision_centric_images=[]),
    ),
    Fault(
        "an image so narrow that `max_pixels` would leave it no height",
        "before the first step",
        r"row 2, id='pair-2': image 0 is 3000 x 1, of which `max_pixels`=256 leaves no width or no height\. Raise",
        narrow,
    ),
    Fault(
        "`min_pixels` above `max_pixels`",
        "when the config is made",
        r"`min_pixels`=300 is above `max_pixels`=256: no image can be both",
        lambda scene: scene.config(min_pixels=300, max_pixels=256),
    ),
    Fault(
        "a collator of one's own with another `max_pixels` than the config",
        "before the first step",
        r"`max_pixels` and `min_pixels` of the config are 256 and None, those of the given `data_collator` None and",
        other_collator,
    ),
]
