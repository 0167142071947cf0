"""Features: from where, in what order, kept where, refused when."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.evaluation import feature_parts
from mage_kit.evaluation.feature_cache import FeatureCache
from mage_kit.evaluation.feature_sources import FeatureSource, pool_features
from mage_kit.evaluation.features import Features, extract, extract_features
from mage_kit.evaluation.kinds import model_kinds
from mage_kit.evaluation.splits import folder_split, held_out
from mage_kit.layers.embedding import open_plan
from tests import build

QUIET = Reporter.silent()


@pytest.fixture(scope="module")
def model() -> mk.Mage:
    return build.mage(build.vqgan(1, (8, 8))).eval()


@pytest.fixture(scope="module")
def digits() -> mk.Dataset:
    return mk.Digits(image_size=(32, 32), channels=1, part="held_out")


def test_sources_are_written_as_they_are_read() -> None:
    for text in ("mean", "class", "mean@3", "class@11+norm", "mean+norm"):
        assert str(FeatureSource.parse(text)) == text
    assert FeatureSource.parse("class@11+norm") == FeatureSource("class", 11, True)
    for wrong in ("max", "mean@", "norm", "mean+norm@3", "", "mean@0"):
        with pytest.raises(ValueError, match="must be mean or class"):
            FeatureSource.parse(wrong)


def test_each_source_is_what_it_says(model: mk.Mage) -> None:
    images = build.images(model, 3)
    tokens = model.tokenizer.encode(images)
    sources = [FeatureSource(), FeatureSource("class"), FeatureSource(block=1), FeatureSource("mean", None, True)]
    with torch.no_grad():
        mean, first, early, normed = pool_features(model, tokens, sources)
        hidden = model.encoder(model.embedding(tokens, open_plan(tokens)))
        after_one = model.encoder.blocks[0](model.embedding(tokens, open_plan(tokens)))
        torch.testing.assert_close(mean, hidden[:, 1:].mean(dim=1))
        torch.testing.assert_close(first, hidden[:, 0])
        torch.testing.assert_close(early, after_one[:, 1:].mean(dim=1))
        torch.testing.assert_close(normed, model.encoder.norm(hidden)[:, 1:].mean(dim=1))
    torch.testing.assert_close(mean, model.features(images))


def test_a_block_that_there_is_not_is_refused(model: mk.Mage, digits: mk.Dataset) -> None:
    with pytest.raises(ValueError, match="source: 'mean@3', the encoder has 2 blocks"):
        extract(model, digits, [FeatureSource(block=3)], reporter=QUIET)


def test_features_come_in_the_order_of_the_images_without_broken_ones(model: mk.Mage, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(6):
            image = Image.fromarray(random.integers(0, 256, (32, 32), dtype=np.uint8))
            image.save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    data = mk.ImageFolder(image_size=(32, 32), channels=1, path=str(tmp_path), max_broken=0.1)
    values, places = extract(model, data, [FeatureSource()], batch=4, reporter=QUIET)
    assert places.tolist() == [0, 1, *range(3, 12)] and values[0].shape == (11, 32)
    one = model.features(torch.from_numpy(data.still(7).views[0])[None].float() / 255)
    np.testing.assert_allclose(values[0][6], one[0], rtol=1e-4, atol=1e-5)
    data.max_broken = 0.0
    with pytest.raises(mk.MageKitError, match="1 of 12 images cannot be read, max_broken is 0"):
        extract(model, data, [FeatureSource()], reporter=QUIET)


def test_loading_processes_change_nothing(digits: mk.Dataset) -> None:
    from mage_kit.datasets.stills import still_batches

    batches = [range(0, 7), range(7, 20)]
    state = torch.get_rng_state()
    one, two = (list(still_batches(digits, batches, workers)) for workers in (0, 2))
    assert torch.equal(state, torch.get_rng_state()), "torch's own generator is left alone"
    for mine, theirs in zip(one, two, strict=True):
        assert [sample.index for sample in mine.samples] == [sample.index for sample in theirs.samples]
        assert all(np.array_equal(a.views[0], b.views[0]) for a, b in zip(mine.samples, theirs.samples, strict=True))


def test_two_processes_give_the_same_bits_in_the_same_order(model: mk.Mage, digits: mk.Dataset, tmp_path: Path) -> None:
    folder = mk.save(model, tmp_path / "model")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch, numpy as np, mage_kit as mk\n"
        "from pathlib import Path\n"
        "from mage_kit.base import processes\n"
        "from mage_kit.evaluation import feature_cache, feature_parts\n"
        "from mage_kit.evaluation.features import extract\n"
        "from mage_kit.evaluation.kinds import model_kinds, pixel_kind\n"
        "from mage_kit.evaluation.feature_sources import FeatureSource\n"
        "torch.set_num_threads(1)\n"
        "processes.start(torch.device('cpu'))\n"
        "data = mk.Digits(image_size=(32, 32), channels=1, part='held_out')\n"
        "sources = [FeatureSource(), FeatureSource('class', 1)]\n"
        "values, places = extract(mk.load(sys.argv[1]), data, sources, batch=32)\n"
        "np.savez(f'{sys.argv[2]}-{processes.rank()}-of-{processes.world()}.npz', *values, places=places)\n"
        "feature_parts.BATCH = 32\n"
        "cache = feature_cache.FeatureCache(Path(f'{sys.argv[2]}-cache-{processes.world()}'))\n"
        "cache.fill('test', data, [*model_kinds(mk.load(sys.argv[1]), sources), pixel_kind()])\n"
        "processes.leave(0)\n"  # as the command line ends, without goodbyes
    )
    arguments = [str(program), str(folder), str(tmp_path / "made")]
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, *arguments], check=True, capture_output=True)
    one, *both = (np.load(tmp_path / f"made-{name}.npz") for name in ("0-of-1", "0-of-2", "1-of-2"))
    assert one["arr_0"].shape == (200, 32) and one["places"].tolist() == list(range(200))
    for other in both:
        assert all(np.array_equal(one[name], other[name]) for name in ("arr_0", "arr_1", "places"))
    caches = [tmp_path / "made-cache-1", tmp_path / "made-cache-2"]
    files = [sorted(file.relative_to(cache) for file in cache.rglob("*.safetensors")) for cache in caches]
    assert files[0] == files[1] and len(files[0]) == 3 * 7, "every process wrote its parts, once"
    for file in files[0]:
        assert (caches[0] / file).read_bytes() == (caches[1] / file).read_bytes(), file


def cached(folder: Path, data: mk.Dataset, model: mk.Mage, *sources: FeatureSource, **options: Any) -> list[Features]:
    """Features as an evaluation takes them, from a fresh cache object each time."""
    cache, kinds = FeatureCache(folder, reporter=QUIET, **options), model_kinds(model, sources)
    cache.fill("test", data, kinds)
    return [cache.read("test", data, kind) for kind in kinds]


def test_cached_features_are_those_extracted_and_stale_ones_are_refused(
    digits: mk.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = build.mage(build.vqgan(1, (8, 8))).eval()
    sources = [FeatureSource(), FeatureSource("class")]
    first = cached(tmp_path, digits, held, *sources)
    whole = extract_features(held, digits, reporter=QUIET)
    assert np.array_equal(first[0].values_ID, whole.values_ID) and np.array_equal(first[0].labels_I, whole.labels_I)
    with monkeypatch.context() as patched:
        patched.setattr("mage_kit.evaluation.feature_parts.feature_batches", None)  # nothing is extracted again
        again = cached(tmp_path, digits, held, *sources)
    assert all(np.array_equal(a.values_ID, b.values_ID) for a, b in zip(first, again, strict=True))
    more = cached(tmp_path, digits, held, FeatureSource(block=1))
    assert not np.array_equal(more[0].values_ID, first[0].values_ID)
    with torch.no_grad():
        held.encoder.norm.weight[0] += 1
    with pytest.raises(mk.MageKitError, match="were made from other weights; --refresh"):
        cached(tmp_path, digits, held, *sources)
    other = mk.Digits(image_size=(32, 32), channels=1, part="training")
    with pytest.raises(mk.MageKitError, match="other weights, data"):
        cached(tmp_path, other, held, *sources)
    fresh = cached(tmp_path, digits, held, *sources, refresh=True)
    assert np.array_equal(fresh[0].values_ID, first[0].values_ID), "the norm has no say in features before it"
    (tmp_path / "test-mean" / "00000-of-00001.safetensors").write_bytes(b"torn")
    with pytest.raises(mk.MageKitError, match=r"test-mean/.*', is damaged"):
        cached(tmp_path, digits, held, *sources)


def test_bfloat16_features_are_kept_beside_those_of_float32(model: mk.Mage, digits: mk.Dataset, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, reporter=QUIET)
    (whole,), (half,) = (
        model_kinds(model, [FeatureSource()], precision=precision) for precision in ("float32", "bfloat16")
    )
    cache.fill("test", digits, [whole, half])
    exact, rounded = (cache.read("test", digits, kind).values_ID for kind in (whole, half))
    assert rounded.dtype == np.float32 and not np.array_equal(exact, rounded)
    assert np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_extraction_goes_on_where_it_stopped(
    model: mk.Mage, digits: mk.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after two of seven parts: those are kept, and the whole is what one pass makes."""
    monkeypatch.setattr("mage_kit.evaluation.feature_parts.BATCH", 32)
    whole = cached(tmp_path / "whole", digits, model, FeatureSource(), FeatureSource("class"))
    real, asked = feature_parts.feature_batches, list[range]()

    def dying(kinds: Any, dataset: mk.Dataset, parts: list[range]) -> Iterator[Any]:
        for number, made in enumerate(real(kinds, dataset, parts)):
            if number == 2:
                raise KeyboardInterrupt
            yield made

    def watched(kinds: Any, dataset: mk.Dataset, parts: list[range]) -> Iterator[Any]:
        asked.extend(parts)
        yield from real(kinds, dataset, parts)

    monkeypatch.setattr("mage_kit.evaluation.feature_parts.feature_batches", dying)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "broken", digits, model, FeatureSource(), FeatureSource("class"))
    assert len(list((tmp_path / "broken" / "test-mean").iterdir())) == 2
    (tmp_path / "broken" / "test-class" / "00001-of-00007.safetensors").unlink()  # killed between the two files
    monkeypatch.setattr("mage_kit.evaluation.feature_parts.feature_batches", watched)
    gone_on = cached(tmp_path / "broken", digits, model, FeatureSource(), FeatureSource("class"))
    assert sorted(part.start for part in asked) == [32, 64, 96, 128, 160, 192]
    for one, other in zip(whole, gone_on, strict=True):
        assert np.array_equal(one.values_ID, other.values_ID) and np.array_equal(one.labels_I, other.labels_I)


def test_features_that_will_not_fit_are_refused_at_their_first_part(
    model: mk.Mage, digits: mk.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mage_kit.evaluation.feature_parts.BATCH", 32)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 200 * 32 * 4 - 1))
    with pytest.raises(mk.MageKitError, match=r"GiB are needed, .* are free"):
        cached(tmp_path, digits, model, FeatureSource())
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 200 * 32 * 4))
    cached(tmp_path, digits, model, FeatureSource())


def test_large_data_sets_have_at_most_64_files_of_whole_batches() -> None:
    for images in (1, 256, 257, 200, 16_384, 16_385, 1_281_167):
        parts = feature_parts.parts_of(images)
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == images
        assert len(parts) <= 64 and all(len(part) % 256 == 0 for part in parts[:-1])


def test_what_is_set_aside(digits: mk.Dataset, tmp_path: Path) -> None:
    split = held_out(digits, seed=3)
    labels = digits.labels()
    places = [*split.train.places, *split.test.places]  # type: ignore[attr-defined]  # chosen ones
    assert sorted(places) == list(range(200))
    for number in range(10):
        share = np.mean(split.test.labels() == number) * len(split.test)
        assert share == np.sum(labels == number) // 5
    assert [split.test.still(place).index for place in (0, 5)] == [0, 5]
    assert np.array_equal(split.test.still(5).views[0], digits.still(split.test.places[5]).views[0])  # type: ignore[attr-defined]
    assert held_out(digits, seed=4).test.places != split.test.places  # type: ignore[attr-defined]
    for part in ("train/a", "train/b", "val/a"):
        (tmp_path / part).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / part / "x.png")
    with pytest.raises(mk.MageKitError, match="train/ and val/ have other classes, 'b' in one of them"):
        folder_split(tmp_path, (32, 32), 1, mk.Augment())
    (tmp_path / "val" / "b").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "val" / "b" / "x.png")
    found = folder_split(tmp_path, (32, 32), 1, mk.Augment())
    assert (len(found.train), len(found.test), found.classes) == (2, 2, 2)
