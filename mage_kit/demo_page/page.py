"""The page itself, made of gradio's parts; it loads nothing from elsewhere and tells nobody."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from mage_kit.base.checks import whole_number
from mage_kit.base.errors import MageKitError, MissingExtraError
from mage_kit.demo_page.gate import LARGEST_REQUEST, Gate, check_picture, names_of, paths_in
from mage_kit.demo_page.painting import LARGEST_SEED, Wish, alike, enlarged, paint, reduced, sample
from mage_kit.editing import to_picture
from mage_kit.evaluation.run_images import run_images
from mage_kit.images.image_files import to_channels
from mage_kit.models.mage import Mage
from mage_kit.recipes.answers import pixel_levels
from mage_kit.recipes.recipe import Recipe
from mage_kit.store.folders import RECIPE_FILE, best_device, require_folder
from mage_kit.store.loading import load

_PAUSE = 0.08  # seconds between two steps, for eyes
_LASTS = 600  # seconds that files of a visitor lie on the disk
_LONGEST = 300  # letters of an error
_BRUSH = "#e11d48"


def serve(
    run: Path, *, host: str = "127.0.0.1", port: int = 7860, ema: bool = False, allow_hosts: tuple[str, ...] = ()
) -> None:
    """Serve the page until it is interrupted.

    Args:
        run: Run or model folder.
        host: Address to listen at; the default is this machine alone.
        port: Port.
        ema: Take the running mean of the run's weights.
        allow_hosts: Names that the page may be asked for by, beside `host` and this machine's own; see `gate`.

    Raises:
        MageKitError: If the folder holds no model with codes, or the port is taken.
        MissingExtraError: If gradio is not installed.
    """
    require_folder(run)
    gradio = _gradio()
    from starlette.middleware import Middleware  # which gradio brings

    model = load(run, best_device(), weights="ema") if ema else load(run, best_device())
    page = build_page(model, _name(run), example(run, model), _levels(run))
    print(f"http://{host}:{port}  (Ctrl-C ends it)", flush=True)
    try:
        page.queue(default_concurrency_limit=1).launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            footer_links=[],
            max_file_size=LARGEST_REQUEST,
            app_kwargs={"middleware": [Middleware(Gate, names=names_of(host, allow_hosts))]},
        )
    except OSError as error:
        why = "in use" if "empty port" in str(error) else str(error)
        raise MageKitError(f"port: {port}, cannot be served ({why}); choose another with --port") from None


def example(run: Path, model: Mage) -> Image.Image:
    """Return a picture of the run's data, or one that the model makes where the data is not here."""
    try:
        dataset = run_images(run, Recipe.load(run / RECIPE_FILE))
        return to_picture(dataset.still(len(dataset) // 2).views[0])
    except (MageKitError, OSError):
        return sample(model, 0)


def build_page(model: Mage, name: str, picture: Image.Image, levels: int | None = None) -> Any:
    """Return the page as gradio Blocks.

    Args:
        model: A model that generates.
        name: Of the run.
        picture: The first one to draw on.
        levels: Of uploads of more than eight bits, from black to white; None for those of their files' type.

    Raises:
        PartsError: If the model has no codes.
        MissingExtraError: If gradio is not installed.
    """
    model.check_generates("the page")
    gr = _gradio()
    with gr.Blocks(title=f"{name} · mage_kit", analytics_enabled=False, delete_cache=(_LASTS, _LASTS)) as page:
        gr.Markdown(f"# {name}\nDraw over what is to be painted anew, then press **Inpaint**.")
        original = gr.State(picture)
        with gr.Row():
            with gr.Column():
                editor = _editor(gr, picture)
                another = gr.Button("Another picture from the model", elem_id="another")
                controls = _controls(gr, model)
            with gr.Column():
                go = gr.Button("Inpaint", variant="primary", elem_id="go")
                line = gr.Textbox(label="Progress", interactive=False, elem_id="line")
                canvas = gr.Image(label="The canvas filling up", type="pil", format="png", elem_id="canvas")
                results = gr.Gallery(label="Results", columns=4, format="png", elem_id="results")
        seed = controls[-1]
        go.click(_inpaint(gr, model), [original, editor, *controls], [canvas, results, line])
        editor.upload(_take(gr), [original, editor], [original, editor])
        another.click(_another(gr, model), seed, [original, editor, seed])
    _check_inputs(gr, page, editor, controls, levels)
    return page


def _check_inputs(gr: Any, page: Any, editor: Any, controls: list[Any], levels: int | None) -> None:
    """Look at what callers send before gradio does: it opens any file, fetches any address, and prints tracebacks."""
    convert, preprocess = editor.convert_and_format_image, page.preprocess_data

    def converted(file: Any, *words: Any, **options: Any) -> Any:
        if file is not None:
            file = check_picture(file.path if hasattr(file, "path") else io.BytesIO(file), levels) or file
        return convert(file, *words, **options)

    async def preprocessed(function: Any, inputs: Any, *words: Any, **options: Any) -> Any:
        try:
            if any(text.startswith(("http:", "https:", "ftp:")) for text in paths_in(inputs)):
                raise MageKitError("inputs: hold an address; send the picture itself")
            return await preprocess(function, inputs, *words, **options)
        except Exception as error:  # whatever gradio makes of it
            cause = error.__cause__ or error
            text = str(cause) if isinstance(cause, MageKitError) else "inputs: not what this page sends"
            raise gr.Error(text[:_LONGEST], print_exception=False) from None

    for control in controls:
        control.preprocess = lambda value: value  # `Wish.of` reads them
    editor.convert_and_format_image, page.preprocess_data = converted, preprocessed


def _editor(gr: Any, picture: Image.Image) -> Any:
    return gr.ImageEditor(
        value=_editable(picture),
        type="pil",
        format="png",
        label="Picture",
        sources=("upload", "clipboard"),
        brush=gr.Brush(default_size=24, colors=[_BRUSH], color_mode="fixed"),
        layers=False,
        transforms=(),
        elem_id="editor",
    )


def _controls(gr: Any, model: Mage) -> list[Any]:
    """What `Wish` is made of, in its order."""
    decoding, grid = model.decoding, model.spec.grid
    noise = getattr(decoding.selection, "temperature", None)
    ring, label = int(min(grid.height, grid.width) >= 8), "Cells around the hole painted too"
    return [
        gr.Slider(1, 64, decoding.steps, step=1, label="Steps", elem_id="steps"),
        gr.Slider(
            0,
            20,
            noise or 0,
            step=0.5,
            label="Confidence temperature",
            visible=noise is not None,
            elem_id="temperature",
        ),
        gr.Slider(0, 2, decoding.token_temperature[0], step=0.05, label="Token temperature", elem_id="tokens"),
        gr.Slider(0, 3, ring, step=1, label=label, elem_id="dilate"),
        gr.Slider(1, 8, 3, step=1, label="Variants", elem_id="variants"),
        gr.Number(0, precision=0, minimum=0, label="Seed", elem_id="seed"),
    ]


def _inpaint(gr: Any, model: Mage) -> Callable[..., Iterator[tuple[Any, Any, Any]]]:
    def inpaint(picture: Any, drawing: Any, *controls: float) -> Iterator[tuple[Any, Any, Any]]:
        try:
            wish = Wish.of(controls)
            for state in paint(model, picture, drawing or {}, wish):
                yield state.canvas, state.results, state.line
                time.sleep(0 if state.results else _PAUSE)
        except (ValueError, TypeError, OverflowError) as error:  # in the line of text: a pop-up would hide the button
            yield gr.skip(), gr.skip(), str(error)

    return inpaint


def _take(gr: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    def take(picture: Any, drawing: Any) -> tuple[Any, Any]:
        if not drawing or drawing.get("background") is None:
            return gr.skip(), gr.skip()
        background = to_channels(drawing["background"], 3)
        if alike(background, enlarged(picture)):
            return gr.skip(), gr.skip()  # the editor tells of pictures that this page gave it, too
        upload = reduced(background)
        return upload, _editable(upload)

    return take


def _another(gr: Any, model: Mage) -> Callable[[float], tuple[Any, Any, float]]:
    def another(seed: float) -> tuple[Any, Any, float]:
        try:
            seed = whole_number("seed", seed or 0, 0, LARGEST_SEED - 1)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        picture = sample(model, seed + 1)
        return picture, _editable(picture), seed + 1

    return another


def _editable(picture: Image.Image) -> dict[str, Any]:
    background = enlarged(picture).convert("RGB")
    return {"background": background, "layers": [], "composite": background}


def _name(run: Path) -> str:
    return Recipe.load(run / RECIPE_FILE).name if (run / RECIPE_FILE).is_file() else run.name


def _levels(run: Path) -> int | None:
    return pixel_levels(Recipe.load(run / RECIPE_FILE)) if (run / RECIPE_FILE).is_file() else None


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio
    except ImportError:
        raise MissingExtraError("the demo page", "app") from None
    return gradio
