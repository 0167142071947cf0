"""Adversaries: networks that tell reconstructions from pictures, and what both sides play for."""

from mage_kit.adversaries.base import ADVERSARIES, Adversary, AdversarySlot, AdversaryWires, build_adversary
from mage_kit.adversaries.contests import (
    Contest,
    LeCam,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from mage_kit.adversaries.differentiable_augment import Change, augment
from mage_kit.adversaries.patchgan import PatchGAN
from mage_kit.adversaries.stylegan import StyleGANAdversary
from mage_kit.adversaries.vqgan_plus import VQGANPlusAdversary

__all__ = [
    "ADVERSARIES",
    "Adversary",
    "AdversarySlot",
    "AdversaryWires",
    "Change",
    "Contest",
    "LeCam",
    "PatchGAN",
    "StyleGANAdversary",
    "VQGANPlusAdversary",
    "adaptive_weight",
    "augment",
    "build_adversary",
    "discriminator_loss",
    "generator_loss",
    "gradient_penalty",
]
