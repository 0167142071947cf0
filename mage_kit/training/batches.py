"""A step's images, and how they are spread over processes and passes.

Legend: B images, T views x B images (view after view), C channels, H x W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mage_kit.base import processes
from mage_kit.base.errors import RecipeError
from mage_kit.images.pixel_levels import Remark

IMAGES = "images"  # what a batch of a data set holds that gives no tokens


@dataclass(frozen=True)
class Batch:
    """One step's images.

    Args:
        content: View after view: uint8 images (T, C, H, W) under `IMAGES`, or tokens by stream of a data set that gives
            them, (T, L), (T, L, F) or (T, L, W).
        index_B: int64, places in the data set; in all processes together a step's images are those of `Order`.
        epoch: Which pass over the data.
        views: Views of each image.
        labels_B: int64 class numbers, `UNKNOWN` where an image has none; None where all have none.
        broken: (name, reason) of images that could not be used; others stand in for them.
        remarks: What to know of the others.
    """

    content: Mapping[str, Tensor]
    index_B: Tensor
    epoch: int
    views: int
    labels_B: Tensor | None = None
    broken: tuple[tuple[str, str], ...] = ()
    remarks: tuple[Remark, ...] = ()

    @property
    def images_TCHW(self) -> Tensor:
        """The images, uint8, view after view.

        Raises:
            ValueError: If the data set gives tokens.
        """
        if IMAGES not in self.content:
            raise ValueError(f"batch: holds tokens ({', '.join(self.content)}), and no images")
        return self.content[IMAGES]

    def cut(self, size: int) -> list[dict[str, Tensor]]:
        """Return the content of `size` images at a time, each piece view after view."""
        count = len(self.index_B)
        by_view = {name: tensor.unflatten(0, (self.views, count)) for name, tensor in self.content.items()}
        return [
            {name: tensor[:, start : start + size].flatten(0, 1) for name, tensor in by_view.items()}
            for start in range(0, count, size)
        ]

    def pin_memory(self) -> Batch:
        """Return the same batch in memory that a GPU can fetch from while it computes."""
        content = {name: tensor.pin_memory() for name, tensor in self.content.items()}
        return dataclasses.replace(self, content=content, index_B=self.index_B.pin_memory())


@dataclass(frozen=True)
class BatchLayout:
    """How a step's images are spread.

    Args:
        batch: Images a step, over all processes.
        world: Processes.
        micro: Images at once in a process.
    """

    batch: int
    world: int
    micro: int

    @property
    def local(self) -> int:
        """Images a step and process."""
        return self.batch // self.world

    @property
    def accumulation(self) -> int:
        """Forward and backward passes before an optimizer step."""
        return self.local // self.micro

    def __str__(self) -> str:
        """The arithmetic of the effective batch."""
        factors = f"{self.micro} a process x {self.world} processes x {self.accumulation} accumulated"
        return f"{factors} = {self.batch} images a step"


def spread(path: str, batch: int, micro: int | None, name: str) -> BatchLayout:
    """Spread a batch over the processes of this run.

    Args:
        path: Of the recipe's section, for errors, as "$.training".
        batch: Images a step, over all processes.
        micro: Images at once in a process; None for its whole share, to which more is cut.
        name: Of the recipe.

    Raises:
        RecipeError: If the numbers do not divide.
    """
    world = processes.world()
    if batch % world:
        advice = "--processes N starts another number of them"
        lines = [f"{path}.batch: {batch}, must be a multiple of the processes ({world}); {advice}"]
        raise processes.shared(RecipeError(lines, name))
    local = batch // world
    size = min(micro or local, local)
    if local % size:
        lines = [f"{path}.micro_batch: {size}, must divide a process's share ({local})"]
        raise processes.shared(RecipeError(lines, name))
    return BatchLayout(batch, world, size)
