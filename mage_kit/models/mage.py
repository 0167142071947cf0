"""Mage: the only place where parts are wired together.

Legend: B images, L tokens, N = 1 + L positions (class first), S kept positions, M loss rows, D encoder width,
E decoder width, X values of a prediction. `True = masked`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from mage_kernels import MaskPlan, full_plan
from torch import Tensor, nn

from mage_kit.base.doors import check_masked, check_tensor
from mage_kit.base.errors import PartsError
from mage_kit.heads import Head
from mage_kit.heads.base import checked_rows
from mage_kit.layers.blocks import evaluating
from mage_kit.layers.condition import Condition
from mage_kit.layers.embedding import open_plan
from mage_kit.layers.linear_layers import linear
from mage_kit.losses import BatchMasks, Gather, Loss, LossInputs, LossTerm, check_term
from mage_kit.models.parts import MaskedParts
from mage_kit.tokenizers import TOKENS

Streams = Tensor | Mapping[str, Tensor]
"""Tokens by stream; a bare tensor is the input stream, and what is predicted too where that is the same."""


@dataclass(frozen=True)
class StepOutput:
    """One forward pass in training.

    Args:
        terms: One term a loss, before division, in the order of the model's losses.
        picked_M: Flat indices (image * L + token) of the loss rows.
        weight_M: 1 for a masked token, 0 for a padding row.
    """

    terms: list[LossTerm]
    picked_M: Tensor
    weight_M: Tensor


class Mage(MaskedParts):
    """A masked image model made of parts; MAGE, MAGE-C, MaskGIT's and MAE's form are choices of parts.

    Args:
        tokenizer: Images to tokens; frozen here.
        encoder: Kept tokens to features.
        decoder: Padded grid to features; its wires must be the encoder's width and the grid's size. None where no loss
            reads predictions.
        losses: One or more; a bare loss weighs 1. None of an encoder alone (decoder None), which is not trained.
        mask_ratio: Distribution of the training ratio.
        padding: What fills the grid before the decoder; None for class-token padding.
        drop: Share of tokens that the encoder never sees; "lowest" for the mask ratio's own lower bound.
        ratio_group: Images that share one drawn ratio: 1 one an image (the paper's text), 64 what the published
            script did, 0 one for the batch.
        embedding: Positions, input norm and dropout.
        decoding: How it generates by default.
        input: Name of the stream that the encoder sees, of the tokenizer's or of `targets`.
        targets: Other tokenizers by name, frozen here, whose streams losses may predict.
        heads: Heads by the stream that they predict; those not given follow from the stream.

    Raises:
        PartsError: If two parts do not fit; names both.
    """

    def encode(self, tokens: Tensor, plan: MaskPlan) -> Tensor:
        """Return the encoder's last block output (B, S, D), before the final norm."""
        latents_BSD: Tensor = self.encoder(self.embedding(tokens, plan))
        return latents_BSD

    def decode(self, latents_BSD: Tensor, plan: MaskPlan, condition: Condition | None = None) -> Tensor:
        """Return decoder features (B, L, E) of all tokens from normed encoder outputs."""
        assert self.decoder is not None and self.padding is not None
        embedded_BSE = linear(self.decoder.embed, latents_BSD)
        padded_BNE = self.padding(embedded_BSE, plan, self.decoder.positions_NE)
        features: Tensor = self.decoder(padded_BNE, condition)[:, 1:]
        return features

    def forward(
        self,
        tokens: Streams,
        plan: MaskPlan,
        masks: BatchMasks,
        gather: Gather | None = None,
        condition: Condition | None = None,
    ) -> StepOutput:
        """One training pass: losses on the masked tokens, nothing else is predicted.

        Args:
            tokens: Streams by name: ids (B, L) or (B, L, F) int64, or continuous tokens (B, L, W); with two views, view
                after view.
            plan: The masks on the device.
            masks: The masks' host side.
            gather: Joins tensors of the processes; None for those of this run.
            condition: For conditional decoders.
        """
        streams = {self.input: tokens} if isinstance(tokens, Tensor) else tokens
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            latents_BSD = self.encoder.norm(self.encode(streams[self.input], plan))
        predictions: dict[str, Tensor] = {}
        if self.decoder is not None:
            picked_ME = self.decode(latents_BSD, plan, condition).flatten(0, 1).index_select(0, plan.picked_M)
            predictions = {name: self._predict(head, name, picked_ME).float() for name, head in self.heads.items()}
        terms = []
        for loss in self.losses:
            assert isinstance(loss, Loss)
            inputs = self._inputs(loss, streams, predictions, latents_BSD, plan, masks, gather or Gather())
            terms.append(check_term(loss, loss(inputs), inputs))
        if predictions and not self.predicts:
            # Decoder and head would get no gradient at all, which wrappers and optimizers trip over: give them zeros.
            zero = torch.stack([0.0 * values.sum() for values in predictions.values()]).sum()
            terms[0] = replace(terms[0], total=terms[0].total + zero)
        return StepOutput(terms, plan.picked_M, plan.weight_M)

    def _predict(self, head: nn.Module, stream: str, features: Tensor) -> Tensor:
        """A head's predictions (..., X) of features (..., E)."""
        predictions = head(features, self.embedding)
        if not isinstance(predictions, Tensor) or predictions.shape[:-1] != features.shape[:-1]:
            has = tuple(predictions.shape) if isinstance(predictions, Tensor) else type(predictions).__name__
            rule = f"must be ({', '.join(map(str, features.shape[:-1]))}, X)"
            raise PartsError((f"heads.{stream}",), f"{type(head).__name__} gave predictions {has}, {rule}")
        return predictions

    def _inputs(
        self,
        loss: Loss,
        streams: Mapping[str, Tensor],
        predictions: Mapping[str, Tensor],
        latents_BSD: Tensor,
        plan: MaskPlan,
        masks: BatchMasks,
        gather: Gather,
    ) -> LossInputs:
        """What a loss reads: predictions and targets of its own stream; nothing of any where it looks at features."""
        nothing = latents_BSD.new_empty(0)
        if not loss.reads_predictions:
            return LossInputs(nothing, nothing, plan.weight_M, latents_BSD, plan, masks, gather, streams)
        head, values = self.heads[loss.stream], predictions[loss.stream]
        assert isinstance(head, Head)
        targets = streams[loss.stream].flatten(0, 1).index_select(0, plan.picked_M)
        rows = partial(checked_rows, head)
        return LossInputs(values, targets, plan.weight_M, latents_BSD, plan, masks, gather, streams, rows)

    def logits(
        self,
        ids_BL: Tensor,
        masked_BL: Tensor,
        condition: Condition | None = None,
        rows_M: Tensor | None = None,
        guidance: float = 0.0,
    ) -> Tensor:
        """Return predictions for every token (B, L, X), nothing dropped: the generation pass.

        Args:
            ids_BL: Tokens; what stands at masked places is not read.
            masked_BL: bool, True where the token is unknown.
            condition: For conditional decoders.
            rows_M: Flat indices (image * L + token) of the tokens wanted; the result is then (M, X).
            guidance: Weight of what the condition adds to the logits; the encoder runs once all the same.

        Raises:
            PartsError: If nothing predicts the model's own tokens.
        """
        head = self.head
        check_tensor("ids", ids_BL)
        check_masked("masked", masked_BL, (ids_BL.shape[0], self.spec.grid.size))
        plan = full_plan(masked_BL)
        latents_BSD = self.encoder.norm(self.encode(ids_BL, plan))

        def predict(labels: Condition | None) -> Tensor:
            features = self.decode(latents_BSD, plan, labels)
            if rows_M is not None:
                features = features.flatten(0, 1).index_select(0, rows_M)
            return self._predict(head, TOKENS, features)

        conditional = predict(condition)
        if not guidance or condition is None:
            return conditional
        conditional = conditional.float()
        guided = conditional + guidance * (conditional - predict(condition.without()).float())
        return torch.where(conditional.isneginf(), conditional, guided)  # a code that may not be drawn stays one

    def token_features(self, tokens: Tensor) -> Tensor:
        """Return mean features (B, D) of the patch positions of the last block, nothing masked, nothing dropped."""
        return self.encode(tokens, open_plan(tokens))[:, 1:].float().mean(dim=1)

    def block_features(self, tokens: Tensor) -> Tensor:
        """Return mean features (blocks, B, D) of the patch positions after each block (paper Figure 6); see above."""
        outputs = self.encoder.outputs(self.embedding(tokens, open_plan(tokens)))
        return torch.stack([output_BND[:, 1:].float().mean(dim=1) for output_BND in outputs])

    @torch.no_grad()
    def features(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of images: the representation of the linear probe (paper section 4.2).

        Args:
            images_BCHW: float images in [0, 1] of the tokenizer's size.
        """
        with evaluating(self):
            return self.token_features(self.see(images_BCHW))
