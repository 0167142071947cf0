"""The paper stands beside a figure of ours where data and protocol are its own, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

from mage_kit.studies.results import gather
from tests.recipes.test_recipe import RECIPES


def test_the_papers_figure_stands_beside_its_own_protocol_alone(tmp_path: Path) -> None:
    """Same data, same protocol, an encoder of that width; and nowhere else."""
    (tmp_path / "eval").mkdir()
    recipe = json.loads((RECIPES / "mage_vitb.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    held = {"measure": "probe", "as_published": True, "train_images": 1_281_167, "test_images": 50_000}
    held |= {"rows": {"features": {"top1": 0.7}, "untrained encoder": {"top1": 0.1}}}

    def papers(**changes: object) -> dict[str, float | None]:
        (tmp_path / "eval" / "probe.json").write_text(json.dumps({**held, **changes}))
        return {line.row: line.paper for line in gather([tmp_path])}

    assert papers() == {"features": 0.747, "untrained encoder": None}
    assert papers(as_published=False)["features"] is None and papers(test_images=49_999)["features"] is None
    contrastive = json.loads((RECIPES / "mage_c_vitl.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps(contrastive))
    assert papers()["features"] == 0.809
