"""Training: two stages from one recipe, on lightning-fabric, resumable to the same bits."""

from mage_kit.training.run import train

__all__ = ["train"]
