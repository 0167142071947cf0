"""Words that wrappers put into names: `module` of DataParallel, `_orig_mod` of torch.compile, and those of FSDP."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mage_kit.base.errors import MageKitError

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def without_wrappers(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under names without wrappers' words, wherever in a name they stand.

    Args:
        path: The file, for the error.
        tensors: By name.

    Raises:
        MageKitError: If two tensors would have one name; names both.
    """
    plain: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, tensor in tensors.items():
        bare = ".".join(word for word in name.split(".") if word not in WRAPPERS) or name
        if bare in plain:
            raise MageKitError(
                f"{path}: holds '{origins[bare]}' and '{name}', which are one tensor once the words of wrappers "
                f"({', '.join(sorted(WRAPPERS))}) are left out; remove one of them"
            )
        plain[bare], origins[bare] = tensor, name
    return plain
