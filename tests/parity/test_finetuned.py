"""The fine-tuned classifier against the recording."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

import mage_kit as mk
from tests.parity.recording import CLOSE, FINETUNED, FOLDER, checkpoint, distance, recording


def test_logits(tmp_path: Path) -> None:
    """Loaded from the file, and again from the folder that it is converted to."""
    (path,), recorded = FINETUNED, recording()
    (expected_file,) = FOLDER.glob("finetuned*.safetensors")
    expected = load_file(expected_file)
    model = mk.load_classifier(path, vqgan=checkpoint(), encoder_heads=recorded.sizes["encoder"]["heads"])
    mk.save(model, tmp_path / "classifier")
    for classifier in (model, mk.load_classifier(tmp_path / "classifier")):
        assert classifier.classes == expected["logits"].shape[1]
        with torch.no_grad():
            pooled = classifier.pooled(recorded.ids)
        assert distance(pooled, expected["fc_norm_output"]) < CLOSE
        assert distance(classifier.logits(recorded.images), expected["logits"]) < CLOSE
