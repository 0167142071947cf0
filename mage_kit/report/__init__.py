"""A run on one page: what it was told, how it went, what it makes."""

from mage_kit.report.write import write_report

__all__ = ["write_report"]
