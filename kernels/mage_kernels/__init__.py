"""The hot pieces of masked image modeling: masks, token drop, attention, decoding. Needs torch alone."""

from mage_kernels.attention import AttentionChoice, attention, choose_attention
from mage_kernels.backend import Backend, Choice, choose
from mage_kernels.dropout import dropout
from mage_kernels.gumbel_topk import gumbel, remask, sample_tokens
from mage_kernels.host_memory import keep_freed_memory
from mage_kernels.plan import MaskPlan, full_plan, make_plan
from mage_kernels.survey import survey
from mage_kernels.token_drop import drop_tokens, embed_kept, pad_tokens

__all__ = [
    "AttentionChoice",
    "Backend",
    "Choice",
    "MaskPlan",
    "attention",
    "choose",
    "choose_attention",
    "drop_tokens",
    "dropout",
    "embed_kept",
    "full_plan",
    "gumbel",
    "keep_freed_memory",
    "make_plan",
    "pad_tokens",
    "remask",
    "sample_tokens",
    "survey",
]
