"""Pictures in part painted anew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mage_kit.cli.app import OverwriteOption, RunArgument, app, console
from mage_kit.cli.decoding_options import (
    DecodingOptions,
    GifOption,
    ImageSizeOption,
    PrecisionOption,
    Precisions,
    SeedOption,
    Weights,
    WeightsOption,
)
from mage_kit.cli.groups import expand_groups

if TYPE_CHECKING:
    from mage_kit.cli.edit_files import Make
    from mage_kit.editing import EditOptions

edit = typer.Typer(
    help="Paint part of a picture anew: inpaint, outpaint, uncrop, reconstruct. Pictures may have any size.",
    no_args_is_help=True,
)
app.add_typer(edit, name="edit")

ImageArgument = Annotated[Path, typer.Argument(help="Picture of any size; PNG, JPEG and what else Pillow reads.")]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder to write; must be new or empty, or see --overwrite.")
]


@dataclass(frozen=True)
class VariantOptions:
    """Which variants, of which class, and what is written of them."""

    n: Annotated[int, typer.Option("-n", min=1, help="Variants.")] = 1
    seed: SeedOption = 0
    class_: Annotated[int | None, typer.Option("--class", help="Of class-conditional runs; default no class.")] = None
    gif: GifOption = False
    overwrite: OverwriteOption = False
    precision: PrecisionOption = Precisions.auto
    weights: WeightsOption = Weights.raw
    image_size: ImageSizeOption = None


@dataclass(frozen=True)
class HoleOptions:
    """How a hole is seen, and how it is filled into the picture."""

    fill: Annotated[str, typer.Option(help="What stands under the mask at first: edge or mean.")] = "edge"
    dilate: Annotated[
        int | None,
        typer.Option(min=0, help="Rings of cells around the hole painted anew too; default 1, or 0 on coarse grids."),
    ] = None
    paste: Annotated[bool, typer.Option(help="Keep the original pixels around the hole.")] = True
    feather: Annotated[
        int | None,
        typer.Option(min=0, help="Pixels around the hole over which old and new mix; default by size."),
    ] = None
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Have the model look at the whole picture, not at a window around the hole."),
    ] = False

    def options(self) -> EditOptions:
        """Return them as the library takes them."""
        options: EditOptions = {
            "fill": self.fill,
            "dilate": self.dilate,
            "paste": self.paste,
            "feather": self.feather,
            "whole": self.whole,
        }
        return options


@edit.command()
@expand_groups
def inpaint(
    run: RunArgument,
    image: ImageArgument,
    mask: Annotated[Path, typer.Argument(help="Picture of the same size, white where painted anew.")],
    out: OutOption,
    variants: VariantOptions,
    hole: HoleOptions,
    decoding: DecodingOptions,
) -> None:
    """Paint anew what a mask covers."""
    from mage_kit.cli.edit_files import read_image
    from mage_kit.editing import inpaint as run_it

    _write(run, image, partial(run_it, mask=read_image(mask)), out, variants, decoding, hole.options())


@edit.command()
@expand_groups
def outpaint(
    run: RunArgument,
    image: ImageArgument,
    out: OutOption,
    variants: VariantOptions,
    hole: HoleOptions,
    decoding: DecodingOptions,
    left: Annotated[int, typer.Option(min=0, help="Pixels to add at the left.")] = 0,
    right: Annotated[int, typer.Option(min=0, help="Pixels to add at the right.")] = 0,
    top: Annotated[int, typer.Option(min=0, help="Pixels to add above.")] = 0,
    bottom: Annotated[int, typer.Option(min=0, help="Pixels to add below.")] = 0,
) -> None:
    """Continue a picture beyond its edges."""
    from mage_kit.editing import outpaint as run_it

    job = partial(run_it, left=left, right=right, top=top, bottom=bottom)
    _write(run, image, job, out, variants, decoding, hole.options())


@edit.command()
@expand_groups
def uncrop(
    run: RunArgument,
    image: ImageArgument,
    width: Annotated[int, typer.Argument(min=1, help="Of the canvas, in pixels.")],
    height: Annotated[int, typer.Argument(min=1, help="Of the canvas, in pixels.")],
    out: OutOption,
    variants: VariantOptions,
    hole: HoleOptions,
    decoding: DecodingOptions,
    across: Annotated[float, typer.Option(min=0, max=1, help="Where the picture stands: 0 left, 1 right.")] = 0.5,
    down: Annotated[float, typer.Option(min=0, max=1, help="Where the picture stands: 0 top, 1 bottom.")] = 0.5,
) -> None:
    """Set a small picture into a large canvas and paint the rest."""
    from mage_kit.editing import uncrop as run_it

    job = partial(run_it, width=width, height=height, across=across, down=down)
    _write(run, image, job, out, variants, decoding, hole.options())


@edit.command()
@expand_groups
def reconstruct(
    run: RunArgument,
    image: ImageArgument,
    out: OutOption,
    variants: VariantOptions,
    decoding: DecodingOptions,
    ratio: Annotated[float, typer.Option(help="Share of the tokens that are masked, in (0, 1].")] = 0.75,
) -> None:
    """Mask tokens at random and decode them again; each variant with a mask of its own (paper, figure 2)."""
    from mage_kit.editing import reconstruct as run_it

    _write(run, image, partial(run_it, ratio=ratio), out, variants, decoding, {})


def _write(
    run: Path,
    image: Path,
    job: Make,
    out: Path,
    variants: VariantOptions,
    decoding: DecodingOptions,
    hole: EditOptions,
) -> None:
    from mage_kit.base.progress import Reporter
    from mage_kit.cli.edit_files import edit_files

    options: EditOptions = {
        **decoding.changes(),
        **hole,
        "n": variants.n,
        "seed": variants.seed,
        "labels": variants.class_,
        "precision": variants.precision.value,
    }
    ema = variants.weights is Weights.ema
    folder = edit_files(
        run, image, job, out, options, ema=ema, image_size=variants.image_size, gif=variants.gif,
        overwrite=variants.overwrite, reporter=Reporter(),
    )  # fmt: skip
    console.print(f"written: {folder}", soft_wrap=True)
