"""Fine-tune vision-language models that see as well as they read, on top of TRL.

The names below are imported on first use: `import trl_modality` alone imports neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from ._lazy import lazy_names
from ._version import __version__


if TYPE_CHECKING:
    from .collation.collator import PairedCollator
    from .config import ModalityBalancedSFTConfig
    from .trainer import ModalityBalancedSFTTrainer
    from .training.callbacks import GapCallback
    from .views import PairError, View, validate_pair

__all__ = [
    "GapCallback",
    "ModalityBalancedSFTConfig",
    "ModalityBalancedSFTTrainer",
    "PairError",
    "PairedCollator",
    "View",
    "__version__",
    "validate_pair",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "GapCallback": "training.callbacks",
        "ModalityBalancedSFTConfig": "config",
        "ModalityBalancedSFTTrainer": "trainer",
        "PairError": "views",
        "PairedCollator": "collation.collator",
        "View": "views",
        "validate_pair": "views",
    },
)
