"""Samplers: a count and nothing else, shared by threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import mage_kit as mk


def test_a_sampler_goes_on_where_it_was(tiny: mk.Mage) -> None:
    wanted = mk.generate(tiny, 12, seed=3).ids_BL
    source = mk.Sampler(tiny, batch=5, seed=3)
    made = [next(source).ids_BL, next(source).ids_BL]
    assert torch.equal(torch.cat(made), wanted[:10])
    assert torch.equal(next(iter(mk.Sampler(tiny, batch=2, seed=3, first=10))).ids_BL, wanted[10:])
    with pytest.raises(ValueError, match="first: -1, must be at least 0"):
        mk.Sampler(tiny, first=-1)


def test_threads_share_a_sampler(tiny: mk.Mage) -> None:
    """Each batch is handed out once, and is the same whichever thread takes it; model and globals stay as they were."""
    tiny.train()
    before = torch.get_rng_state()
    wanted = mk.generate(tiny, 24, seed=1, steps=3).ids_BL
    source = mk.Sampler(tiny, batch=3, seed=1, steps=3)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: next(source), range(8)))
    found = {tuple(row.tolist()) for part in made for row in part.ids_BL}
    assert found == {tuple(row.tolist()) for row in wanted}
    assert tiny.training and torch.equal(torch.get_rng_state(), before)
    assert not any(part.images_BCHW.requires_grad for part in made) and torch.is_grad_enabled()
