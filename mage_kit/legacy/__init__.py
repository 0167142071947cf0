"""Published checkpoints: read, accounted for, written back. Numbers of the published vocabulary live here alone."""

from mage_kit.legacy.importing import Imported, import_checkpoint
from mage_kit.legacy.layout import LayoutError, Options
from mage_kit.legacy.layouts import LAYOUTS, get_layout, recognise

__all__ = ["LAYOUTS", "Imported", "LayoutError", "Options", "get_layout", "import_checkpoint", "recognise"]
