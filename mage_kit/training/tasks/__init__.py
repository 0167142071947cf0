"""Tasks: what a training does, from images to objectives; a family, open to plug-ins."""

from mage_kit.training.tasks.adversarial import Adversarial
from mage_kit.training.tasks.base import TASKS, Task
from mage_kit.training.tasks.classify import Classify
from mage_kit.training.tasks.context import Context, Facts, TaskWires, TrainingStep
from mage_kit.training.tasks.contrast import Contrast
from mage_kit.training.tasks.masked import Masked
from mage_kit.training.tasks.masked_adversarial import MaskedAdversarial
from mage_kit.training.tasks.reconstruct import Reconstruct

__all__ = [
    "TASKS",
    "Adversarial",
    "Classify",
    "Context",
    "Contrast",
    "Facts",
    "Masked",
    "MaskedAdversarial",
    "Reconstruct",
    "Task",
    "TaskWires",
    "TrainingStep",
]
