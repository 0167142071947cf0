"""Real files on disk: every way in which an image file can be odd or hostile, loose and in tar files."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.datasets import DATASETS, Dataset, DatasetWires
from mage_kit.datasets.class_names import by_names
from mage_kit.images.image_files import load_image, open_image, upright_size
from mage_kit.images.transforms import Augment, cut, random_crop
from mage_kit.training.loader import Order, Share

WIRES = DatasetWires((32, 32), 3)


def photo(seed: int = 0, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A smooth colourful picture, as JPEG likes them."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def made(kind: str, path: Path, **settings: object) -> Dataset:
    return DATASETS.build(DATASETS.parse({"kind": kind, "path": str(path), **settings}), WIRES)


def huge_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def hostile(folder: Path, count: int, seed: int = 0) -> set[str]:
    """Fill a folder with files that are no usable images; return their paths."""
    draw = random.Random(seed)
    jpeg, names = encoded(photo(), "JPEG"), set()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.txt", "hello")
    makers = {
        "truncated.jpg": lambda: jpeg[: draw.randint(20, len(jpeg) - 40)],
        "zip.png": zipped.getvalue,
        "strip.png": lambda: encoded(Image.new("L", (1, 30000)), "PNG"),
        "bomb.png": lambda: huge_header(50_000, 50_000),
        "large.png": lambda: huge_header(12_000, 12_000),
        "text.jpg": lambda: b"these are words, not pixels",
        "empty.png": lambda: b"",
        "notes.txt": lambda: b"no image",
        "float.tiff": lambda: encoded(Image.new("F", (8, 8), 0.5), "TIFF"),
    }
    kinds = [*makers, "folder.png", "loop.png"]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        path = folder / f"{number:04d}-{kind}"
        if kind == "folder.png":
            path.mkdir()
        elif kind == "loop.png":
            path.symlink_to(path.name)
        else:
            path.write_bytes(makers[kind]())
        names.add(str(path))
    return names


def test_every_mode_becomes_eight_bits_upright() -> None:
    grey = Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16))
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    cases = {
        "sixteen bits": (encoded(grey, "PNG"), (156, 156, 156)),
        "palette": (encoded(Image.new("RGB", (4, 4), (10, 200, 30)).convert("P"), "PNG"), None),
        "transparent": (encoded(clear, "PNG"), (255, 255, 255)),
        "cmyk": (encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), (255, 255, 255)),
        "grey with alpha": (encoded(Image.new("LA", (4, 4), (0, 255)), "PNG"), (0, 0, 0)),
        "one bit": (encoded(Image.new("1", (4, 4), 1), "PNG"), (255, 255, 255)),
    }
    for name, (content, wanted) in cases.items():
        image = load_image(open_image(io.BytesIO(content), name), name, 3)
        assert image.mode == "RGB"
        if wanted is not None:
            assert all(abs(a - b) <= 3 for a, b in zip(image.getpixel((1, 1)), wanted, strict=True)), name
    assert load_image(open_image(io.BytesIO(cases["transparent"][0])), "x", 4).getpixel((0, 0)) == (200, 0, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_draft_keeps_it(orientation: int) -> None:
    """A picture whose corners differ, stored in each of the eight ways, comes out the same."""
    upright = Image.new("RGB", (160, 96), "black")
    upright.paste("red", (0, 0, 80, 48))
    upright.paste("blue", (80, 48, 160, 96))
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, [])  # fmt: skip
    stored = upright
    for step in undo:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, "JPEG", exif=exif, quality=95)
    opened = open_image(io.BytesIO(content))
    assert upright_size(opened) == (160, 96)
    small = load_image(opened, "x", 3, least=(40, 24))
    assert small.size == (40, 24), "draft mode was not used"
    red, blue, black = small.getpixel((8, 6)), small.getpixel((32, 18)), small.getpixel((32, 6))
    assert red[0] > 200 > 60 > red[2] and blue[2] > 200 > 60 > blue[0] and max(black) < 60


def test_draft_gives_nearly_the_same_views_and_never_too_few_pixels(tmp_path: Path) -> None:
    photo(1, (1600, 1200)).save(tmp_path / "large.jpg", quality=95)
    photo(1, (1600, 1200)).save(tmp_path / "large.png")
    png = Image.open(tmp_path / "large.png").convert("RGB")
    augment = Augment()
    for seed in range(20):
        crop = random_crop((1600, 1200), augment, np.random.default_rng(seed))
        width, height = crop.least((32, 32))
        shrunk = load_image(Image.open(tmp_path / "large.jpg"), "x", 3, (int(width) + 1, int(height) + 1))
        assert shrunk.size[0] >= width and shrunk.size[1] >= height and shrunk.size[0] <= 1600
        a, b = (np.asarray(cut(image, crop, (32, 32), "bilinear"), dtype=int) for image in (shrunk, png))
        assert np.abs(a - b).mean() < 4


@pytest.mark.slow
def test_two_hundred_hostile_files_are_listed_and_training_runs_to_its_end(tmp_path: Path) -> None:
    """With two loading processes, whose memory is watched while they read."""
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for index in range(300):
        photo(index).save(data / f"good-{index:04d}.jpg")
    names = hostile(data, 200)
    settings = [f'data={{"kind": "image_folder", "path": "{data}", "max_broken": 0.5}}', "tokenizer.channels=3"]
    from tests.training.test_training import small

    recipe = tmp_path / "recipe.json"
    # Six passes of each stage: every file is read with all but certainty, the last batch of an epoch being left out.
    settings += [f"{section}.workers=1" for section in ("training", "tokenizer_training")]
    recipe.write_text(small(*settings, "training.epochs=6", "training.batch=64").to_json())
    command = [sys.executable, "-m", "mage_kit.cli", "train", str(recipe), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = json.loads((out / "broken.json").read_text())
    assert set(listed["broken"]) | set(listed["left_out"]) == names
    assert len(listed["left_out"]) == len([name for name in names if name.endswith(("folder.png", "loop.png", ".txt"))])
    assert all(listed["broken"].values()) and "broken" in done.stderr
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["broken_images"] == len(listed["broken"])


MEMORY = """
import resource, sys
from mage_kit.datasets import DATASETS, DatasetWires
from mage_kit.base.errors import BrokenImageError
config = {"kind": "image_folder", "path": sys.argv[1], "max_broken": 0.5}
data = DATASETS.build(DATASETS.parse(config), DatasetWires((256, 256), 3))
data.sample(len(data) - 1, 0, 0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
broken = 0
for index in range(len(data)):
    try:
        data.sample(index, 0, 0)
    except BrokenImageError:
        broken += 1
print(broken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_hostile_files_take_little_memory(tmp_path: Path) -> None:
    hostile(tmp_path, 200)
    photo().save(tmp_path / "zz-good.jpg")
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    broken, grown = done.stdout.split()
    assert int(broken) == 200 - 18 * 3, done.stdout
    assert float(grown) < 200, f"{grown} MiB"


def test_too_many_broken_images_end_a_run(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for index in range(140):
        photo(index).save(data / f"good-{index:04d}.jpg")
    hostile(data, 9)
    from mage_kit.training.train import train
    from tests.training.test_training import small

    settings = [f'data={{"kind": "image_folder", "path": "{data}"}}', "tokenizer.channels=3"]
    with pytest.raises(mk.MageKitError, match=r"images are broken .* data.max_broken: 0.01, must not be exceeded"):
        train(small(*settings), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "broken.json").read_text())["broken"]


# -- order -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_see_each_image_once_an_epoch(world: int) -> None:
    order = Order(103, 8, 5)
    for epoch in range(3):
        seen = [
            index
            for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
            for rank in range(world)
            for index in Share(rank, world).of(order.indices(step)[1])
        ]
        whole = [index for step in range(epoch * 12, (epoch + 1) * 12) for index in order.indices(step)[1]]
        assert seen == whole and len(set(seen)) == 96, "the processes' parts, by rank, are the batch of one process"


def test_a_link_back_up_is_no_class(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    data = made("image_folder", tmp_path)
    assert len(data) == 1 and data.classes == () and [Path(name).name for name, _ in data.passed_over] == ["loop"]


def test_evaluation_passes_over_what_training_passed_over(tmp_path: Path) -> None:
    from mage_kit.evaluation import still_images

    for number in range(12):
        place = tmp_path / "data" / ("a" if number % 3 else "b")
        place.mkdir(parents=True, exist_ok=True)
        photo(number).save(place / f"{number}.jpg")
    (tmp_path / "data" / "a" / "broken.jpg").write_bytes(b"no image")
    images, labels = still_images(made("image_folder", tmp_path / "data", max_broken=0.1))
    assert len(images) == len(labels) == 12 and labels.tolist() == [0] * 8 + [1] * 4
    with pytest.raises(
        mk.MageKitError, match=r"1 of 13 images cannot be read, max_broken is 0.01 of them; .*broken.jpg"
    ):
        still_images(made("image_folder", tmp_path / "data"))


def test_classes_are_found_by_their_names(tmp_path: Path) -> None:
    """A class too many, or one less, shifts no other: its place in the listing says nothing."""
    for name in ("cat", "dog", "eel"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "x.png")
    data = mk.ImageFolder(image_size=(8, 8), channels=3, path=str(tmp_path))
    assert by_names(data, ["cat", "dog", "eel"]) is data
    learned = by_names(data, ["eel", "ant", "cat", "dog"])
    assert learned.labels().tolist() == [2, 3, 0] == [learned.label(index) for index in range(3)]
    assert [learned.still(index).label for index in range(3)] == [2, 3, 0]
    assert [learned.sample(index, 0, 0).label for index in range(3)] == [2, 3, 0]
    assert learned.classes == ("eel", "ant", "cat", "dog") and learned.identity() == data.identity()
    with pytest.raises(mk.MageKitError, match=r"class 'eel' is none of the 2 that were learned \('cat', 'dog'\)"):
        by_names(data, ["cat", "dog"])
