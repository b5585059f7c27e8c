"""What a user passes to ms-swift by ``--external_plugins``."""

from swift.rewards import orms

from mpo_lite.integrations.swift import MPOReward

orms["mpo"] = MPOReward
