"""``python -m mpo_lite`` is the command ``mpo-lite``."""

import sys

from mpo_lite.cli.main import main

sys.exit(main())
