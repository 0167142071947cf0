"""The version, for files that say what wrote them."""

from importlib.metadata import version

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Return what a result says of the programs that made it."""
    return {"mage_kit": __version__, "torch": version("torch")}
