"""What a condition carries: a label and a vector for each image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mage_kit as mk
from tests import build


class VectorDecoder(mk.ViTDecoder):
    """Adds a condition's vector to every position."""

    def __init__(self, encoder_dim: int, num_tokens: int) -> None:
        super().__init__(encoder_dim, num_tokens, dim=24, depth=1, heads=4, dropout=0.0)
        self.vector = nn.Linear(5, 24)

    def forward(self, padded_BNE: Tensor, condition: mk.Condition | None = None) -> Tensor:
        if condition is not None and condition.vectors_BX is not None:
            padded_BNE = padded_BNE + self.vector(condition.vectors_BX)[:, None]
        return super().forward(padded_BNE)


def test_a_condition_carries_a_vector_beside_labels() -> None:
    labels, vectors = torch.tensor([1, -1, 3]), torch.randn(3, 5)
    condition = mk.Condition(labels, vectors)
    assert torch.equal(condition[1:].vectors_BX, vectors[1:]) and torch.equal(condition[1:].labels_B, labels[1:])
    assert condition.without().labels_B.tolist() == [-1] * 3 and not bool(condition.without().vectors_BX.any())
    dropped = condition.dropped(torch.tensor([0.1, 0.9, 0.1]), 0.5)
    assert dropped.labels_B.tolist() == [-1, -1, -1] and torch.equal(dropped.vectors_BX[1], vectors[1])
    assert not bool(dropped.vectors_BX[0].any()) and condition.repeat(2).vectors_BX.shape == (6, 5)
    assert mk.Condition(labels).repeat(2).vectors_BX is None
    model = build.mage(decoder=VectorDecoder(32, 16), dropout=0.0).eval()
    known, masked = build.tokens(model, 3), torch.ones(3, 16, dtype=torch.bool)
    told, untold = (model.logits(known, masked, each) for each in (condition, condition.without()))
    assert not torch.equal(told, untold)
    guided = model.logits(known, masked, condition, guidance=2.0)
    torch.testing.assert_close(guided, told + 2.0 * (told - untold))
    mk.decode_tokens(model, known, masked, condition=condition)
    with pytest.raises(ValueError, match=r"condition: vectors \(2, 5\), must be \(B, X\) for 3 images"):
        mk.decode_tokens(model, known, masked, condition=mk.Condition(labels, vectors[:2]))
