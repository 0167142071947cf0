"""The list of images that a run passed over, and the point at which there are too many of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError
from mage_kit.base.files import BROKEN_FILE, read_json, write_json
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset
from mage_kit.datasets.remarks import tell
from mage_kit.images.pixel_levels import Remark

_SHOWN = 3


class BrokenImages:
    """What a run has met and passed over, kept in `broken.json` of the run folder.

    Args:
        dataset: Its `passed_over` is listed at once; its `max_broken` is the limit.
        folder: The run folder.
        reporter: Told when the first ones turn up.
    """

    def __init__(self, dataset: Dataset, folder: Path, reporter: Reporter) -> None:
        self._dataset, self._file, self._reporter = dataset, folder / BROKEN_FILE, reporter
        self._new: dict[str, str] = {}
        content = read_json(self._file) if self._file.is_file() else {}
        self._reasons: dict[str, str] = dict(content.get("broken", {}))
        self._remarks: list[Remark] = []
        if dataset.summary and not content and processes.is_first():
            reporter.say(f"data: {dataset.summary}")
        if dataset.passed_over and not content and processes.is_first():
            some = "; ".join(f"{name} ({reason})" for name, reason in list(dataset.passed_over)[:_SHOWN])
            count = len(dataset.passed_over)
            reporter.say(f"data: {count} files are no images, or damaged, and left out, listed in {self._file}: {some}")
            self._write()

    @property
    def count(self) -> int:
        """Different images that turned out broken."""
        return len(self._reasons)

    def note(self, files: Iterable[tuple[str, str]]) -> None:
        """Remember what a batch met."""
        for name, reason in files:
            if name not in self._reasons:
                self._new[name] = reason

    def remark(self, remarks: Iterable[Remark]) -> None:
        """Remember what is to be known of a batch's images."""
        self._remarks += (each for each in remarks if each[0] not in {kind for kind, _ in self._remarks})

    @property
    def too_many(self) -> bool:
        """Whether what this process knows of is more than the data set allows."""
        return self.count + len(self._new) > self._dataset.max_broken * len(self._dataset)

    def settle(self) -> None:
        """Put together what all processes met, write the list, and stop if there are too many; all call it at once.

        Raises:
            MageKitError: If more than the data set's `max_broken` of its images are broken.
        """
        parts = processes.collect((self._new, self._remarks))
        files = {name: reason for part, _ in parts for name, reason in part.items()}
        tell(self._dataset, (each for _, remarks in parts for each in remarks))
        self._new, self._remarks = {}, []
        additions = {name: reason for name, reason in files.items() if name not in self._reasons}
        if not additions:
            return
        self._reasons |= additions
        processes.on_first(self._write)
        images, limit = len(self._dataset), self._dataset.max_broken
        latest = "; ".join(f"{name} ({reason})" for name, reason in list(additions.items())[:_SHOWN])
        text = f"data: {self.count} of {images} images are broken ({self.count / images:.2%}), listed in {self._file}"
        if self.count > limit * images:
            rule = f"data.max_broken: {limit:g}, must not be exceeded"
            raise processes.shared(MageKitError(f"{text}; {rule}; the latest: {latest}"))
        self._reporter.say(f"{text}; others stand in for them; new: {latest}")

    def _write(self) -> None:
        content = {"images": len(self._dataset), "broken": self._reasons, "left_out": dict(self._dataset.passed_over)}
        write_json(self._file, content, listed=True)
