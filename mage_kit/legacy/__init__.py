"""Published checkpoints: read, accounted for, written back. Numbers of the published vocabulary live here alone."""

from mage_kit.legacy.exporting import Exported, export_part
from mage_kit.legacy.importing import Imported, import_checkpoint, import_tokenizer
from mage_kit.legacy.layout import LayoutError, Options
from mage_kit.legacy.layouts import LAYOUTS, get_layout, recognise
from mage_kit.legacy.mage_layout import TOKENIZER_PREFIX
from mage_kit.legacy.origin import Origin
from mage_kit.legacy.plain_vit import plain_vit
from mage_kit.legacy.published_folders import is_weight_folder

__all__ = [
    "LAYOUTS",
    "TOKENIZER_PREFIX",
    "Exported",
    "Imported",
    "LayoutError",
    "Options",
    "Origin",
    "export_part",
    "get_layout",
    "import_checkpoint",
    "import_tokenizer",
    "is_weight_folder",
    "plain_vit",
    "recognise",
]
