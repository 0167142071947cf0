"""Words that wrappers put into names: `module` of DataParallel, `_orig_mod` of torch.compile, and those of FSDP."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mage_kit.legacy.renames import invert

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_CAUSE = f"once the words of wrappers ({', '.join(sorted(WRAPPERS))}) are left out"


def bare_name(name: str) -> str:
    """Return a name without wrappers' words, wherever in it they stand; the name itself where it has no others."""
    return ".".join(word for word in name.split(".") if word not in WRAPPERS) or name


def without_wrappers(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under names without wrappers' words.

    Args:
        path: The file, for the error.
        tensors: By name.

    Raises:
        MageKitError: If two tensors would have one name; names both.
    """
    origins = invert(path, {name: bare_name(name) for name in tensors}, _CAUSE)
    return {bare: tensors[name] for bare, name in origins.items()}
