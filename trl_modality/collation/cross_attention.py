"""Which images the tokens of a batch see, in models that read them through cross-attention (Mllama).

Legend of the shapes: R rows, L places of a row, I images of a row at most, N images of the batch, K tiles of an image.
"""

import torch
import torch.nn.functional as F

from ..views import View
from .layout import ViewLayout


def images_of_rows(is_image: torch.Tensor, layout: ViewLayout) -> torch.Tensor:
    """The images of each row by their index among those of the batch, `[R, I]`; −1 where a row has fewer than I.

    A vision_centric row that shows the images of its partner has those of its partner.

    Args:
        is_image: Whether a token stands for an image, `[R, L]`.
        layout: Of the batch.
    """
    counts = is_image.sum(1)
    first = layout.rows.get(View.TEXT_RICH, 0)
    partners = slice(first, first + layout.sharing_pairs)
    own = counts.clone()
    own[partners] = 0
    begins = own.cumsum(0) - own
    begins[partners] = begins[: layout.sharing_pairs]
    places = torch.arange(int(counts.max()), device=is_image.device)
    return torch.where(places < counts.unsqueeze(1), begins.unsqueeze(1) + places, -1)


def cross_attention_mask(is_image: torch.Tensor, images: torch.Tensor, has_tile: torch.Tensor) -> torch.Tensor:
    """1 where a token sees a tile of an image of its row, else 0; `[R, L, I, K]`.

    As Mllama's processor says it of a whole row: a token sees the last image at or before it, and those that this one
    follows without a token between them. Tokens before the first image see none.

    Args:
        is_image: Whether a token stands for an image, `[R, L]`.
        images: Of each row, as `images_of_rows` gives them, `[R, I]`.
        has_tile: Which tiles each image has, `[N, K]`.
    """
    begins = is_image & ~F.pad(is_image, (1, 0))[:, :-1]
    run_RL, image_RL = begins.cumsum(1), is_image.cumsum(1)
    sees = []
    for i in range(images.shape[1]):
        run_of_image = (run_RL * (is_image & (image_RL == i + 1))).sum(1, keepdim=True)
        sees.append((image_RL > i) & (run_RL == run_of_image))
    tiles_RIK = F.pad(has_tile, (0, 0, 0, 1))[images]  # an index of −1 has no tiles
    return torch.stack(sees, -1).unsqueeze(-1).long() * tiles_RIK.unsqueeze(1)
