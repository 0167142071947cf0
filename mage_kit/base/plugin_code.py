"""The code of other people's components, as a digest: what was made by it does not outlive it unnoticed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

_KNOWN = sys.stdlib_module_names | {"mage_kit", "mage_kernels", "torch"}


def code_digest(module: str) -> str:
    """Return a SHA-256 of an imported module's source; of a package, of every Python file in it.

    Args:
        module: Its name.

    Returns:
        Hexadecimal digits; nothing where there is no source, as in a notebook.
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or module == "__main__":
        return ""
    place, digest = Path(file), hashlib.sha256()
    files = sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]
    for each in files:
        if each.is_file():
            digest.update(f"{each.relative_to(place.parent)}\0".encode())
            digest.update(each.read_bytes())
    return digest.hexdigest()


def foreign_code(parts: Iterable[object]) -> dict[str, str]:
    """Return digests of the modules that define objects' classes, and those above them, by name.

    Left out are this program's own, Python's and torch's.
    """
    modules = {cls.__module__ for part in parts for cls in type(part).__mro__}
    names = {name for name in modules if name.partition(".")[0] not in _KNOWN}
    return {name: digest for name in sorted(names) if (digest := code_digest(name))}
