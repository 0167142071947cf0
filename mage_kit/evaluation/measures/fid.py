"""Generated and reconstructed images against real ones, by the features of a network that the user brings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError
from mage_kit.base.fields import NonNegative, Positive
from mage_kit.evaluation.generation_metrics import Extractor, load_extractor, read_reference
from mage_kit.evaluation.image_quality import generated_quality, reconstructed_quality, tokenizer_and_images
from mage_kit.evaluation.measures.base import MEASURES, Measure, Outcome
from mage_kit.evaluation.measures.request import Request
from mage_kit.models.mage import Mage
from mage_kit.planning.passes import Passes
from mage_kit.store.folders import best_device
from mage_kit.store.loading import load

NO_EXTRACTOR = (
    "--extractor: none given, so there is no FID: it is a distance of Inception's features, and no such file comes "
    "with this program or is downloaded; name your own TorchScript or .pt2 file"
)
Values = Literal["bytes", "unit", "signed"]


class Distance(Measure):
    """A distance of images to real ones.

    Args:
        extractor: Your Inception file, TorchScript or .pt2, named by its SHA-256. It is run: trust it.
        side: Pixels a side that the extractor takes; 0: the images' own.
        values: What it takes: bytes 0 to 255, unit 0 to 1, signed -1 to 1.
    """

    def __init__(self, *, extractor: Path | None = None, side: NonNegative = 299, values: Values = "bytes") -> None:
        self.extractor, self.side, self.values = extractor, side, values

    def check(self, request: Request) -> None:
        """There must be a network."""
        if self.extractor is None:
            raise MageKitError(NO_EXTRACTOR)

    def network(self) -> Extractor:
        """Load the extractor."""
        assert self.extractor is not None
        return load_extractor(self.extractor, side=self.side or None, values=self.values, device=best_device())

    @classmethod
    def heading(cls, result: Mapping[str, Any]) -> str:
        """Return the name that the figure must carry: what speaks against it stands in it."""
        return f"{cls.title}: {result['name']}"

    @classmethod
    def note(cls, result: Mapping[str, Any]) -> str:
        """Name network and reference."""
        extractor, reference = result["extractor"], result["reference"]
        words = f"extractor {extractor['name']}, SHA-256 {extractor['sha256']}"
        return f"{result['protocol']}; {words}; reference {reference['name']}, {reference['count']} images"


@MEASURES.register("fid")
class GeneratedImages(Distance):
    """gFID, IS, KID, precision and recall of generated images; fewer than 10,000 are a smoke figure.

    Args:
        reference: Features of real images, as written by mage-kit eval reference.
        n: Images to generate.
        labels: Classes of class-conditional runs; none: each in turn.
        batch: Images at once.
    """

    title: ClassVar[str] = "Generated images"
    takes: ClassVar[frozenset[str]] = frozenset({"weights", "seed", "decoding", "processes"})
    flags: ClassVar[Mapping[str, str]] = {"n": "-n", "labels": "--class"}

    @classmethod
    def fits(cls, model: Mage) -> bool:
        """It must make images."""
        return model.generates

    def __init__(
        self,
        *,
        reference: Path | None = None,
        n: Positive = 50_000,
        labels: tuple[NonNegative, ...] = (),
        batch: Positive = 64,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if n < 2:
            raise MageKitError(f"n: {n}, must be at least 2")
        self.reference, self.n, self.labels, self.batch = reference, n, labels, batch

    def check(self, request: Request) -> None:
        """There must be a network and a reference."""
        super().check(request)
        if self.reference is None:
            rule = "make one of real images: mage-kit eval reference DIR --out FILE"
            raise MageKitError(f"--reference: none given; {rule}")

    def run(self, request: Request) -> Outcome:
        """Generate, all processes together, and compare."""
        assert self.reference is not None
        network = self.network()
        model = processes.first_ahead(lambda: load(request.run, best_device(), weights=request.weights))
        real = read_reference(self.reference, network, model.tokenizer.image_size, model.tokenizer.channels)
        result = generated_quality(
            model, real, network, self.n, seed=request.seed, labels=list(self.labels) or None, weights=request.weights,
            batch=self.batch, changes=request.decoding, reporter=request.reporter,
        )  # fmt: skip
        return Outcome({"run": str(request.run), **result})

    def passes(self, train: int, test: int) -> Passes:
        """So many images generated, and drawn by the tokenizer, which is not counted."""
        return Passes(generated=self.n)


@MEASURES.register("rfid")
class Reconstructions(Distance):
    """rFID of a tokenizer: its reconstructions against the images."""

    title: ClassVar[str] = "Reconstructions"
    needs: ClassVar[Literal["mage", "classifier", "tokenizer"]] = "tokenizer"
    takes: ClassVar[frozenset[str]] = frozenset({"data", "file"})

    def check(self, request: Request) -> None:
        """There must be a network and images."""
        super().check(request)
        if request.data is None:
            raise MageKitError("--data: none given; name a folder of images")

    def run(self, request: Request) -> Outcome:
        """Reconstruct the images and compare."""
        assert request.data is not None
        network = self.network()
        tokenizer, images = tokenizer_and_images(request.run, request.data)
        result = reconstructed_quality(tokenizer, images, network, reporter=request.reporter)
        return Outcome({"data": str(request.data), **result})

    def passes(self, train: int, test: int) -> Passes:
        """Every test image there and back; back is not counted."""
        return Passes(tokenized=test)
