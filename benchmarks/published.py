"""The published algorithm written plainly, to measure against: as its script computes it, nothing made faster.

Explicit softmax attention with float32 logits, torch's dropout, boolean masks and a sort for the cutoffs, the class
feature repeated and overwritten, logits for all positions and all rows of the legacy vocabulary, tokenizer in the loop.
Weights come from a model of ours through the published layout, so that both sides compute the same function.

Legend: B images, L tokens, N = 1 + L positions, D and E widths, R rows of the legacy vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mage_kit as mk
from mage_kit.legacy import export_part
from mage_kit.legacy.mage_layout import CLASS_ROW


class PlainAttention(nn.Module):
    """Softmax of float32 logits, written out."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        images, places, width = x.shape
        qkv = self.qkv(x).reshape(images, places, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        with torch.autocast(x.device.type, enabled=False):
            logits = (query.float() @ key.float().transpose(-2, -1)) * (width // self.heads) ** -0.5
        weights = F.dropout(
            (logits - logits.max(dim=-1, keepdim=True).values).softmax(dim=-1), self.dropout, self.training
        )
        mixed = (weights.to(value.dtype) @ value).transpose(1, 2).reshape(images, places, width)
        return F.dropout(self.proj(mixed), self.dropout, self.training)


class PlainBlock(nn.Module):
    """Pre-norm block."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = PlainAttention(width, heads, dropout)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        hidden = F.dropout(F.gelu(self.mlp["fc1"](self.norm2(x))), self.dropout, self.training)
        return x + F.dropout(self.mlp["fc2"](hidden), self.dropout, self.training)


class PublishedMage(nn.Module):
    """The pre-training model under its published names.

    Args:
        model: Ours; its weights are copied, its tokenizer is shared.
    """

    def __init__(self, model: mk.Mage) -> None:
        super().__init__()
        encoder, decoder, codes = model.encoder, model.decoder, model.spec.codes
        assert isinstance(encoder, mk.ViTEncoder) and isinstance(decoder, mk.ViTDecoder) and codes is not None
        tensors = export_part(model).tensors
        rows = tensors["token_emb.word_embeddings.weight"].shape[0]
        self.codes, self.class_id, self.mask_id = codes, codes + CLASS_ROW, rows - 1
        self.drop_share = model.drop_share
        self.tokenizer, self.grid, self.rate = model.tokenizer, model.spec.grid, model.embedding.config.dropout
        width, inner, places = encoder.dim, decoder.dim, 1 + model.spec.grid.size
        self.word, self.place = nn.Embedding(rows, width), nn.Embedding(places, width)
        self.first_norm = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(PlainBlock(width, encoder.heads, encoder.dropout) for _ in range(encoder.depth))
        self.norm, self.decoder_embed = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, inner)
        self.decoder_place = nn.Parameter(torch.zeros(1, places, inner))
        self.decoder_blocks = nn.ModuleList(
            PlainBlock(inner, decoder.heads, decoder.dropout) for _ in range(decoder.depth)
        )
        self.decoder_norm = nn.LayerNorm(inner, eps=1e-6)
        self.fc, self.ln, self.bias = (
            nn.Linear(inner, width),
            nn.LayerNorm(width),
            nn.Parameter(torch.zeros(1, 1, rows)),
        )
        missing = self.load_state_dict(_renamed(tensors), strict=False).missing_keys
        assert all(name.startswith("tokenizer.") for name in missing), missing

    def logits(self, ids: Tensor, drop: Tensor, hidden: Tensor) -> Tensor:
        """Logits (B, N, R) of all positions and rows.

        Args:
            ids: (B, N) rows of the vocabulary, class first, masked ones as the mask row.
            drop: (B, N) bool, True where the encoder does not see a position.
            hidden: (B, N) bool, True where a token is masked.
        """
        images = len(ids)
        x = self.word(ids) + self.place(torch.arange(ids.shape[1], device=ids.device))
        x = F.dropout(self.first_norm(x), self.rate, self.training)
        x = x[~drop].reshape(images, -1, x.shape[-1])
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        padded = x[:, :1].repeat(1, ids.shape[1], 1)
        padded[~drop] = x.reshape(-1, x.shape[-1])
        padded = torch.where(hidden[:, :, None], x[:, :1], padded) + self.decoder_place
        for block in self.decoder_blocks:
            padded = block(padded)
        features = self.ln(F.gelu(self.fc(self.decoder_norm(padded))))
        return features @ self.word.weight.detach().T.to(features.dtype) + self.bias

    def loss(self, ids: Tensor, ratio: float, noise: Tensor) -> Tensor:
        """Label-smoothed cross entropy over masked tokens.

        Args:
            ids: (B, L) codes.
            ratio: Mask ratio of the batch.
            noise: (B, L) uniform numbers.
        """
        length = ids.shape[1]
        ordered = noise.sort(dim=1).values
        drop = noise <= ordered[:, math.ceil(self.drop_share * length) - 1 : math.ceil(self.drop_share * length)]
        hidden = noise <= ordered[:, math.ceil(ratio * length) - 1 : math.ceil(ratio * length)]
        rows = torch.where(hidden, self.mask_id, ids)
        rows = torch.cat([torch.full_like(rows[:, :1], self.class_id), rows], dim=1)
        seen = torch.zeros_like(hidden[:, :1])
        logits = self.logits(rows, torch.cat([seen, drop], dim=1), torch.cat([seen, hidden], dim=1))
        picked = logits[:, 1:, : self.codes].float()
        losses = F.cross_entropy(picked.reshape(-1, self.codes), ids.reshape(-1), reduction="none", label_smoothing=0.1)
        weights = hidden.reshape(-1).float()
        return (losses * weights).sum() / weights.sum()

    @torch.no_grad()
    def generate(self, images: int, steps: int, tau: float) -> Tensor:
        """Images from nothing, float (B, C, H, W): the published loop, a sort a step and the first row's count."""
        length = self.grid.size
        ids = torch.full((images, length), self.mask_id, device=self.bias.device)
        nothing = torch.zeros(images, 1 + length, dtype=torch.bool, device=ids.device)
        for step in range(1, steps + 1):
            hidden = ids == self.mask_id
            rows = torch.cat([torch.full_like(ids[:, :1], self.class_id), ids], dim=1)
            logits = self.logits(rows, nothing, torch.cat([nothing[:, :1], hidden], dim=1))
            logits = logits[:, 1:, : self.codes].float()
            sampled = torch.distributions.Categorical(logits=logits).sample()
            sampled = torch.where(hidden, sampled, ids)
            chosen = logits.softmax(dim=-1).gather(-1, sampled[:, :, None])[..., 0]
            chosen = torch.where(hidden, chosen, torch.inf)
            uniform = torch.rand_like(chosen).clamp(1e-9, 1 - 1e-7)
            score = chosen.log() + tau * (1 - step / steps) * -torch.log(-torch.log(uniform))
            count = max(1, min(int(hidden[0].sum()) - 1, math.floor(length * math.cos(math.pi / 2 * step / steps))))
            cutoff = score.sort(dim=1).values[:, count - 1 : count]
            ids = torch.where((score <= cutoff) & (step < steps), self.mask_id, sampled)
        return self.tokenizer.decode(ids)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names to this module's, where they differ."""
    names = {
        "token_emb.word_embeddings.": "word.",
        "token_emb.position_embeddings.": "place.",
        "token_emb.LayerNorm.": "first_norm.",
        "decoder_pos_embed_learned": "decoder_place",
        "mlm_layer.": "",
    }
    kept = {}
    for name, tensor in tensors.items():
        if name.startswith("vqgan."):
            continue
        prefix = next((prefix for prefix in names if name.startswith(prefix)), "")
        kept[names.get(prefix, "") + name.removeprefix(prefix)] = (
            tensor.float() if tensor.is_floating_point() else tensor
        )
    return kept
