"""Fine-tune vision-language models that see as well as they read, on top of TRL.

The names below are imported on first use: `import trl_modality` alone imports neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING


__version__ = "0.1.0.dev0"

_MODULE_OF = {
    "GapCallback": "callbacks",
    "ModalityBalancedSFTConfig": "config",
    "ModalityBalancedSFTTrainer": "trainer",
    "PairError": "views",
    "PairedCollator": "collator",
    "View": "views",
    "validate_pair": "views",
}

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

if TYPE_CHECKING:
    from .callbacks import GapCallback
    from .collator import PairedCollator
    from .config import ModalityBalancedSFTConfig
    from .trainer import ModalityBalancedSFTTrainer
    from .views import PairError, View, validate_pair


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
