"""Pictures in part painted anew."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mage_kit.cli.app import OverwriteOption, RunArgument, app, console
from mage_kit.cli.drawing import (
    GuidanceOption,
    PrecisionOption,
    Precisions,
    PresetOption,
    ScheduleOption,
    SeedOption,
    SelectionOption,
    StepsOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    Weights,
    WeightsOption,
    decoding_changes,
)

if TYPE_CHECKING:
    from mage_kit.decoding import DecodingChanges
    from mage_kit.editing import EditOptions

edit = typer.Typer(
    help="Paint part of a picture anew: inpaint, outpaint, uncrop, reconstruct. Pictures may have any size.",
    no_args_is_help=True,
)
app.add_typer(edit, name="edit")

ImageArgument = Annotated[Path, typer.Argument(help="Picture of any size; PNG, JPEG and what else Pillow reads.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must be new or empty.")]
CountOption = Annotated[int, typer.Option("-n", min=1, help="Variants.")]
ClassOption = Annotated[int | None, typer.Option("--class", help="Of class-conditional runs; default no class.")]
GifOption = Annotated[bool, typer.Option("--gif", help="Write the canvas filling up too, as an animation.")]
FillOption = Annotated[str, typer.Option(help="What stands under the mask at first: edge or mean.")]
DilateOption = Annotated[
    int | None,
    typer.Option(min=0, help="Rings of cells around the hole painted anew too; default 1, or 0 on coarse grids."),
]
PasteOption = Annotated[bool, typer.Option(help="Keep the original pixels around the hole.")]
FeatherOption = Annotated[
    int | None,
    typer.Option(min=0, help="Pixels around the hole over which old and new mix; default by size."),
]
WholeOption = Annotated[
    bool, typer.Option("--whole", help="Have the model look at the whole picture, not at a window around the hole.")
]


@edit.command()
def inpaint(
    run: RunArgument,
    image: ImageArgument,
    mask: Annotated[Path, typer.Argument(help="Picture of the same size, white where painted anew.")],
    out: OutOption,
    n: CountOption = 1,
    seed: SeedOption = 0,
    fill: FillOption = "edge",
    dilate: DilateOption = None,
    paste: PasteOption = True,
    feather: FeatherOption = None,
    whole: WholeOption = False,
    preset: PresetOption = None,
    steps: StepsOption = None,
    schedule: ScheduleOption = None,
    selection: SelectionOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    guidance: GuidanceOption = None,
    class_: ClassOption = None,
    gif: GifOption = False,
    overwrite: OverwriteOption = False,
    precision: PrecisionOption = Precisions.auto,
    weights: WeightsOption = Weights.raw,
) -> None:
    """Paint anew what a mask covers."""
    from mage_kit.editing import inpaint as run_it
    from mage_kit.jobs.edit import read_image

    changes = decoding_changes(preset, steps, schedule, selection, temperature, top_k, top_p, guidance)
    options = _options(
        changes,
        n=n,
        seed=seed,
        labels=class_,
        trace=gif,
        precision=precision.value,
        fill=fill,
        dilate=dilate,
        paste=paste,
        feather=feather,
        whole=whole,
    )
    _write(run, partial(run_it, image=read_image(image), mask=read_image(mask)), out, options, weights, overwrite)


@edit.command()
def outpaint(
    run: RunArgument,
    image: ImageArgument,
    out: OutOption,
    left: Annotated[int, typer.Option(min=0, help="Pixels to add at the left.")] = 0,
    right: Annotated[int, typer.Option(min=0, help="Pixels to add at the right.")] = 0,
    top: Annotated[int, typer.Option(min=0, help="Pixels to add above.")] = 0,
    bottom: Annotated[int, typer.Option(min=0, help="Pixels to add below.")] = 0,
    n: CountOption = 1,
    seed: SeedOption = 0,
    fill: FillOption = "edge",
    dilate: DilateOption = None,
    paste: PasteOption = True,
    feather: FeatherOption = None,
    whole: WholeOption = False,
    preset: PresetOption = None,
    steps: StepsOption = None,
    schedule: ScheduleOption = None,
    selection: SelectionOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    guidance: GuidanceOption = None,
    class_: ClassOption = None,
    gif: GifOption = False,
    overwrite: OverwriteOption = False,
    precision: PrecisionOption = Precisions.auto,
    weights: WeightsOption = Weights.raw,
) -> None:
    """Continue a picture beyond its edges."""
    from mage_kit.editing import outpaint as run_it
    from mage_kit.jobs.edit import read_image

    changes = decoding_changes(preset, steps, schedule, selection, temperature, top_k, top_p, guidance)
    options = _options(
        changes,
        n=n,
        seed=seed,
        labels=class_,
        trace=gif,
        precision=precision.value,
        fill=fill,
        dilate=dilate,
        paste=paste,
        feather=feather,
        whole=whole,
    )
    _write(
        run,
        partial(run_it, image=read_image(image), left=left, right=right, top=top, bottom=bottom),
        out,
        options,
        weights,
        overwrite,
    )


@edit.command()
def uncrop(
    run: RunArgument,
    image: ImageArgument,
    width: Annotated[int, typer.Argument(min=1, help="Of the canvas, in pixels.")],
    height: Annotated[int, typer.Argument(min=1, help="Of the canvas, in pixels.")],
    out: OutOption,
    across: Annotated[float, typer.Option(min=0, max=1, help="Where the picture stands: 0 left, 1 right.")] = 0.5,
    down: Annotated[float, typer.Option(min=0, max=1, help="Where the picture stands: 0 top, 1 bottom.")] = 0.5,
    n: CountOption = 1,
    seed: SeedOption = 0,
    fill: FillOption = "edge",
    dilate: DilateOption = None,
    paste: PasteOption = True,
    feather: FeatherOption = None,
    whole: WholeOption = False,
    preset: PresetOption = None,
    steps: StepsOption = None,
    schedule: ScheduleOption = None,
    selection: SelectionOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    guidance: GuidanceOption = None,
    class_: ClassOption = None,
    gif: GifOption = False,
    overwrite: OverwriteOption = False,
    precision: PrecisionOption = Precisions.auto,
    weights: WeightsOption = Weights.raw,
) -> None:
    """Set a small picture into a large canvas and paint the rest."""
    from mage_kit.editing import uncrop as run_it
    from mage_kit.jobs.edit import read_image

    changes = decoding_changes(preset, steps, schedule, selection, temperature, top_k, top_p, guidance)
    options = _options(
        changes,
        n=n,
        seed=seed,
        labels=class_,
        trace=gif,
        precision=precision.value,
        fill=fill,
        dilate=dilate,
        paste=paste,
        feather=feather,
        whole=whole,
    )
    _write(
        run,
        partial(run_it, image=read_image(image), width=width, height=height, across=across, down=down),
        out,
        options,
        weights,
        overwrite,
    )


@edit.command()
def reconstruct(
    run: RunArgument,
    image: ImageArgument,
    out: OutOption,
    ratio: Annotated[float, typer.Option(help="Share of the tokens that are masked, in (0, 1].")] = 0.75,
    n: CountOption = 1,
    seed: SeedOption = 0,
    preset: PresetOption = None,
    steps: StepsOption = None,
    schedule: ScheduleOption = None,
    selection: SelectionOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    guidance: GuidanceOption = None,
    class_: ClassOption = None,
    gif: GifOption = False,
    overwrite: OverwriteOption = False,
    precision: PrecisionOption = Precisions.auto,
    weights: WeightsOption = Weights.raw,
) -> None:
    """Mask tokens at random and decode them again; each variant with a mask of its own (paper, figure 2)."""
    from mage_kit.editing import reconstruct as run_it
    from mage_kit.jobs.edit import read_image

    changes = decoding_changes(preset, steps, schedule, selection, temperature, top_k, top_p, guidance)
    options = _options(changes, n=n, seed=seed, labels=class_, trace=gif, precision=precision.value)
    _write(run, partial(run_it, image=read_image(image), ratio=ratio), out, options, weights, overwrite)


def _options(changes: DecodingChanges, **settings: Any) -> EditOptions:
    options: EditOptions = {**changes, **settings}  # type: ignore[typeddict-item]  # both are of the options' keys
    return options


def _write(run: Path, job: Any, out: Path, options: EditOptions, weights: Weights, overwrite: bool) -> None:
    from mage_kit.jobs.edit import edit_files
    from mage_kit.progress import Reporter

    written = edit_files(run, job, out, options, ema=weights is Weights.ema, overwrite=overwrite, reporter=Reporter())
    console.print(f"written: {written}", markup=False, soft_wrap=True)
