"""``python -m mpo_lite`` is the command ``mpo-lite``."""

from mpo_lite.cli.main import main

main()
