"""`python -m trl_modality.cli`, for launchers: `accelerate launch -m trl_modality.cli train --config recipe.yaml`."""

import sys

from . import main


if __name__ == "__main__":
    sys.exit(main())
