"""The hot pieces of masked image modeling: masks, token drop, attention, decoding. Needs torch alone."""

from mage_kernels.attention import attention
from mage_kernels.attention_choice import AttentionChoice, choose_attention
from mage_kernels.backend import Backend, Choice, choose
from mage_kernels.dropout import dropout
from mage_kernels.host_memory import keep_freed_memory
from mage_kernels.ops.drop import drop_tokens
from mage_kernels.ops.embed import embed_kept
from mage_kernels.ops.pad import pad_tokens
from mage_kernels.ops.remask import remask
from mage_kernels.ops.sample import gumbel, sample_tokens
from mage_kernels.plan import MaskPlan, full_plan, make_plan
from mage_kernels.survey import survey

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
