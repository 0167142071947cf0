"""mage-kit, the command line. Every error that a user can cause is one message and exit code 2."""

from mage_kit.cli import editing, evaluating, generating, planning, runs, studying, weights
from mage_kit.cli import inspecting as looks
from mage_kit.cli.app import app, main

__all__ = ["app", "editing", "evaluating", "generating", "looks", "main", "planning", "runs", "studying", "weights"]
