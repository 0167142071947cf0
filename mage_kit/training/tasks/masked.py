"""Masked image modeling: tokens are hidden at a variable ratio and predicted (paper section 3.1).

Legend: B images, T views x B images (view after view), S images of the whole step, L tokens.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mage_kit.base.draws import generator, keys, uniforms
from mage_kit.base.errors import MageKitError, RecipeError
from mage_kit.base.fields import LearningRate, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.base.length import Length
from mage_kit.base.processes import rank, world
from mage_kit.datasets import Dataset
from mage_kit.layers.condition import Condition
from mage_kit.losses import LOSSES, BatchMasks, Loss
from mage_kit.models import Mage
from mage_kit.optimizers import OptimizerSlot, optimizer_config
from mage_kit.training.batches import Batch
from mage_kit.training.metrics import RatioBins
from mage_kit.training.players import Player
from mage_kit.training.samples import draw_from
from mage_kit.training.tasks.base import PUBLISHED_ADAMW, TASKS
from mage_kit.training.tasks.context import Context, Facts, TrainingStep
from mage_kit.training.tasks.pieces import Piece
from mage_kit.training.tasks.tokens import TokenTask


@TASKS.register("masked")
class Masked(TokenTask):
    """A masked model learns to predict hidden tokens, by whatever losses it has.

    Args:
        epochs: Passes over the data; null where `steps` says how long.
        warmup_epochs: Epochs of linear warm-up; null where `warmup_steps` says how long.
        steps: Optimizer steps, instead of epochs.
        warmup_steps: Steps of linear warm-up, instead of epochs.
        base_lr: Learning rate at a batch of 256: the peak is base_lr x batch / 256.
        min_lr: Learning rate at the end of the cosine, whatever the batch.
        optimizer: What moves the weights.
        clip: Largest global gradient norm; null: no clipping.
        ema: Decay of a running mean of the model's weights, warmed up; null: no such mean.
        samples_every: Epochs between two pictures of generated samples, in samples/; null: none.
        shard: Over several processes, shard weights, gradients and optimizer state (FSDP2).
    """

    model: Mage

    def __init__(
        self,
        model: Mage,
        *,
        epochs: PositiveFloat | None = None,
        warmup_epochs: NonNegativeFloat | None = None,
        steps: Positive | None = None,
        warmup_steps: NonNegative | None = None,
        base_lr: LearningRate = 1.5e-4,
        min_lr: NonNegativeFloat = 0.0,
        optimizer: OptimizerSlot = PUBLISHED_ADAMW,
        clip: PositiveFloat | None = 3.0,
        ema: Probability | None = None,
        samples_every: PositiveFloat | None = None,
        shard: bool = False,
    ) -> None:
        self.model = model
        self.epochs, self.warmup_epochs, self.steps, self.warmup_steps = epochs, warmup_epochs, steps, warmup_steps
        Length(epochs, steps, warmup_epochs, warmup_steps)  # refuses both units, and neither
        self.base_lr = base_lr
        self.optimizer, self.clip, self.ema = optimizer_config(optimizer), clip, ema
        self.samples_every, self.shard, self.min_lr = samples_every, shard, min_lr
        carried_out = frozenset({"shard", "samples_every"})
        self.free = carried_out if self.contrasts else carried_out | {"micro_batch"}

    @property
    def contrasts(self) -> bool:
        """Whether images that are computed at once are each other's negatives, so that their number matters."""
        return any(loss.contrasts_batch for loss in self.model.losses if isinstance(loss, Loss))

    # -- before the run ----------------------------------------------------------------------------------------

    def attentive(self) -> dict[str, nn.Module]:
        """Encoder, and decoder where there is one."""
        parts: dict[str, nn.Module | None] = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        return {name: part for name, part in parts.items() if part is not None}

    def problems(self, facts: Facts) -> list[str]:
        """Views that the data does not give; samples of what cannot generate."""
        model, problems = self.model, super().problems(facts)
        augment = getattr(facts.data, "augment", None)
        if augment is not None and augment.views < model.views:
            number = next(i for i, loss in enumerate(model.losses) if getattr(loss, "needs_views", 1) > augment.views)
            problems.append(
                f"$.model.losses[{number}] and $.data.augment.views: the loss needs {model.views} views, "
                f"the data gives {augment.views}"
            )
        if self.samples_every is not None and not model.generates:
            rule = f"must be null: {model.generation_obstacle}"
            problems.append(f"{facts.path}.samples_every: {self.samples_every}, {rule}")
        return problems + self._learns_nothing(facts)

    def _learns_nothing(self, facts: Facts) -> list[str]:
        """Say if nothing is predicted, so that this is another task's work."""
        if self.model.predicts:
            return []
        rule = "must be contrast, or a loss must read predictions"
        return [f"{facts.path}.kind and $.model.losses: 'masked' predicts hidden tokens, and no loss reads any; {rule}"]

    def accept(self, images: Dataset, validation: Dataset | None, seed: int, path: str) -> Dataset:
        """Take images with views enough, and with the classes that the decoder is to be told of."""
        model = self.model
        if images.augment.views < model.views:
            raise RecipeError([f"$.data views: {images.augment.views} an image, the losses need {model.views}"])
        classes, has = model.classes, len(images.classes)
        if classes is not None and classes != has:
            what = f"{has} classes" if has else "no labels"
            raise RecipeError([f"$.model.decoder.classes and $.data: {classes}, the data has {what}"])
        return super().accept(images, validation, seed, path)

    # -- at its start ------------------------------------------------------------------------------------------

    def enter(self, context: Context) -> None:
        """Make room for losses by ratio, and say how far a contrastive loss sees."""
        super().enter(context)
        model, layout = self.model, context.layout
        self.bins = RatioBins(model.mask_ratio.low, model.mask_ratio.high, context.device, self._chance is not None)
        self.sums["bins"] = self.bins.sums_3K
        self.weights = torch.tensor(model.loss_weights, device=context.device)
        self._pristine = copy.deepcopy(model) if self.samples_every and self.shard and world() > 1 else None
        at_once = layout.micro * layout.world
        if at_once < layout.batch and self.contrasts:
            context.reporter.say(
                f"warning: training.micro_batch {layout.micro} on {layout.world} processes: a contrastive loss sees "
                f"the negatives of {at_once} of the {layout.batch} images only; "
                "accumulation is no larger contrastive batch"
            )

    def players(self) -> Sequence[Player]:
        """Return the model alone; kept, since samples are drawn of its running mean too."""
        self._players = super().players()
        return self._players

    # -- steps -------------------------------------------------------------------------------------------------

    def cut(self, batch: Batch, step: TrainingStep) -> list[Piece]:
        """Cut this process's part of a batch; the counts are those of the whole step, all processes'."""
        size, views, micro = len(batch.index_B), batch.views, self.context.layout.micro
        ratio_S = self.ratios(step.number, size * world())
        ratio_B = ratio_S[rank() * size : (rank() + 1) * size] if world() > 1 else ratio_S
        length = self.model.spec.grid.size
        # Drawn on the device: the numbers are the same, and the host need not wait until they are brought there.
        index_B = batch.index_B.to(self.context.device, non_blocking=True)
        by_view = [keys(step.seed, "mask", index_B, batch.epoch, view) for view in range(views)]
        noise_VBL = torch.stack([uniforms(key_B, length) for key_B in by_view])
        contents = batch.cut(micro)
        condition = self._condition(batch, step.seed)
        every = BatchMasks(ratio_S.repeat(views), int(self.model.n_masked(ratio_S).sum()) * views, views)
        counts = [self._count(number, every) for number in range(len(self.model.losses))]
        pieces = []
        for number, content in enumerate(contents):
            part = slice(number * micro, (number + 1) * micro)
            ratio_T = ratio_B[part].repeat(views)
            masks = BatchMasks(ratio_T, int(self.model.n_masked(ratio_T).sum()), views)
            noise_TL = noise_VBL[:, part].flatten(0, 1)
            labels = None if condition is None else condition[part].repeat(views)
            pieces.append(Piece(content, masks, noise_TL, labels, counts, len(contents) * world()))
        return pieces

    def _count(self, number: int, masks: BatchMasks) -> float:
        """What a loss's sum over the step is divided by; where nothing counts, the sum is 0 and stays it."""
        loss = self.model.losses[number]
        assert isinstance(loss, Loss)
        count = loss.count(masks)
        if not isinstance(count, int | float) or not 0 <= count < math.inf:
            name = type(loss).__name__
            raise MageKitError(f"model.losses[{number}]: {name} counts {count!r}, must be a number of at least 0")
        return max(1.0, count)

    def prepare(self, micro: Piece, step: TrainingStep) -> Piece:
        """Tokenise, and plan the masks."""
        device = self.context.device
        micro.tokens = self.encode(micro.content)
        micro.plan = self.model.plan(micro.masks.ratio_B, micro.noise_TL)
        micro.condition = None if micro.condition is None else micro.condition.to(device)
        return micro

    def objective(self, player: str, work: Piece, step: TrainingStep) -> Tensor:
        """Return the weighted sum of the losses: each a sum over the pass, divided by the count of the whole step.

        Counts differ between passes, so that the mean over passes is that of all rows only if each weighs as many times
        as there are passes.
        """
        output = self.model(work.tokens, work.plan, work.masks, condition=work.condition)
        sums = [term.total / count for term, count in zip(output.terms, work.counts, strict=True)]
        parts = torch.stack(sums) * work.parts
        for number, part in enumerate(parts):
            self.tally(f"loss_{number}", part)
        rows = next((term for term in output.terms if term.rows_M is not None), None)
        if rows is not None and rows.rows_M is not None:
            image_M = work.plan.picked_M // self.model.spec.grid.size
            self.bins.add(work.masks.ratio_B, image_M, work.plan.weight_M, rows.rows_M, rows.hits_M)
        return (parts * self.weights).sum()

    def ratios(self, step: int, size: int) -> Tensor:
        """Return one ratio an image, shared by `ratio_group` consecutive images of the global batch."""
        group = self.model.ratio_group or size
        ratio_G = self.model.draw_ratios(math.ceil(size / group), generator(self.context.seed, "ratio", step))
        return ratio_G.repeat_interleave(group)[:size]

    def _condition(self, batch: Batch, seed: int) -> Condition | None:
        """Return the images' labels, less those withheld: drawn from (seed, epoch, image)."""
        decoder = self.model.decoder
        if decoder is None or decoder.classes is None or batch.labels_B is None:
            return None
        uniform_B = uniforms(keys(seed, "label", batch.index_B, batch.epoch), 1)[:, 0]
        return Condition(batch.labels_B).dropped(uniform_B, decoder.label_dropout)

    # -- what is said of it ------------------------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """Return mean losses, accuracy, the chance line ln K, and both by ratio."""
        bins = self.sums.pop("bins")
        means = super().read()
        self.sums["bins"] = bins
        metrics = self.bins.read()
        if not means:  # all were left out
            return {}
        losses = [means[f"loss_{number}"] for number in range(len(self.model.losses))]
        record: dict[str, Any] = {"loss": sum(w * m for w, m in zip(self.model.loss_weights, losses, strict=True))}
        for number, (loss, mean) in enumerate(zip(self.model.losses, losses, strict=True)):
            assert isinstance(loss, Loss)
            kind = LOSSES.entry_of(loss).kind
            record[kind if kind not in record else f"{kind}_{number}"] = mean
        if self._chance is not None:
            record["chance"] = self._chance
        rest = {name: mean for name, mean in means.items() if not re.fullmatch(r"loss_\d+", name)}
        return record | rest | (metrics if self.model.predicts else {})

    @property
    def _chance(self) -> float | None:
        """Chance's cross entropy, F ln V, of the first stream that is predicted; None where none is of codes."""
        streams = (loss.stream for loss in self.model.losses if isinstance(loss, Loss) and loss.reads_predictions)
        spec = next((self.model.streams[name] for name in streams), None)
        return spec.factors * math.log(spec.codes) if spec is not None and spec.codes else None

    def note(self, record: Mapping[str, Any]) -> str:
        """Say the loss, against chance where there are codes."""
        chance = f" (chance {record['chance']:.2f})" if "chance" in record else ""
        return f"loss {record['loss']:.4f}{chance}"

    def look_every(self) -> int:
        """Return the steps between two pictures of samples."""
        return max(1, round(self.samples_every * self.context.steps_per_epoch)) if self.samples_every else 0

    def look(self, step: int, path: Path) -> None:
        """Draw samples of the raw and the mean weights."""
        player = next(player for player in self._players if player.module is self.model)
        draw_from(player, self._pristine, path, self.context.device)
