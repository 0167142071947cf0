"""Keywords of a measure as options of its command, whatever they hold; and what a measure may not state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.cli import app
from mage_kit.report import write_report
from mage_kit.schedules import SCHEDULES
from mage_kit.studies.results import gather
from tests.outside.sections import recipe

Schedule = Annotated[Any, SCHEDULES.slot()]


@pytest.fixture
def odd() -> Iterator[dict[str, Any]]:
    """A measure with keywords of many types, and what its last run was given."""
    keywords: dict[str, Any] = {}

    @mk.MEASURES.register("many-keywords")
    class ManyKeywords(mk.Measure):
        """Keywords of many types.

        Args:
            sizes: Needed.
            shape: Of a schedule.
            limits: By name.
            count: Or "all".
            words: Several.
            whole: On or off.
        """

        needs = "tokenizer"

        def __init__(
            self, *, sizes: tuple[mk.Positive, ...], shape: Schedule | None = None,
            limits: dict[str, float] | None = None, count: int | str = "all",
            words: tuple[str, ...] = ("a",), whole: bool = True,
        ) -> None:  # fmt: skip
            self.sizes, self.shape, self.limits = sizes, shape, limits
            self.count, self.words, self.whole = count, words, whole

        def run(self, request: mk.Request) -> mk.Outcome:
            keywords.update(vars(self))
            return mk.Outcome({"protocol": "p", "rows": {"it": {"top1": 0.5}}})

    yield keywords
    mk.MEASURES._entries.pop("many-keywords")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = {"kind": "reconstruct", "steps": 2, "batch": 8, "lr": 2e-3, "precision": "float32"}
    sections = recipe("second_stream", training=task)
    return mk.train(sections, tmp_path_factory.mktemp("keywords") / "tokenizer")


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["eval", "many-keywords", *map(str, words)])


def test_they_are_read_as_they_are_in_a_recipe(odd: dict[str, Any], tokenizer: Path) -> None:
    words = (
        "--shape",
        '{"kind": "cosine"}',
        "--limits",
        '{"low": 0.5}',
        "--count",
        "3",
        "--words",
        "x",
        "--words",
        "y",
    )
    done = invoke(tokenizer, "1,20", *words, "--no-whole")
    assert done.exit_code == 0, done.output
    assert odd["sizes"] == (1, 20) and odd["shape"].kind == "cosine" and odd["limits"] == {"low": 0.5}
    assert (odd["count"], odd["words"], odd["whole"]) == (3, ("x", "y"), False)
    assert invoke(tokenizer, "4", "--shape", "linear", "--overwrite").exit_code == 0
    assert odd["sizes"] == (4,) and odd["shape"].kind == "linear" and odd["count"] == "all"


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("1,x",), "must be whole numbers, separated by commas"),
        (("0",), "--sizes: 0, Input should be greater than or equal to 1"),
        (("1", "--limits", '{"low": '), "--limits: line 1"),
        (("1", "--limits", "low"), "--limits: 'low', Input should be a valid dictionary"),
        (("1", "--shape", "cosines"), '--shape: .*unknown "cosines"'),
    ],
)
def test_what_is_wrong_is_named(odd: dict[str, Any], tokenizer: Path, words: tuple[str, ...], rule: str) -> None:
    done = invoke(tokenizer, *words)
    with pytest.raises(mk.MageKitError, match=rule):
        raise done.exception
    assert not odd


def test_what_a_class_states_wrongly_is_refused_at_once() -> None:
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "takes": ({"takes": ["data"]}, r"takes: \['data'\], must be a set of names"),
        "names": ({"takes": {"date"}}, "takes: 'date', must be among"),
        "shown": ({"shown": "top1"}, "shown: 'top1', must be a tuple of names"),
        "needs": ({"needs": "model"}, "needs: 'model', must be one of mage, classifier, tokenizer"),
    }
    for attributes, rule in wrong.values():
        with pytest.raises(mk.MageKitError, match=rule):
            type("Odd", (mk.Measure,), attributes)
    with pytest.raises(mk.RegistrationError, match="kind 'reference' names something else"):
        mk.MEASURES.register("reference")(type("Odd", (mk.Measure,), {"run": lambda self, request: None}))


def test_a_folder_of_another_kind_is_refused(tokenizer: Path) -> None:
    with pytest.raises(mk.MageKitError, match="holds a tokenizer alone; 'knn' measures a masked model"):
        mk.evaluate(tokenizer, "knn")
    with pytest.raises(mk.MageKitError, match="holds a tokenizer alone; 'accuracy' measures a classifier"):
        mk.evaluate(tokenizer, "accuracy")


@pytest.mark.parametrize(
    ("method", "answer", "rule"),
    [
        ("heading", lambda cls, result: result["nothing"], "Odd.heading: failed .KeyError"),
        ("note", lambda cls, result: None, "Odd.note: gave a NoneType"),
        ("curves", lambda cls, result: [1], "Odd.curves: gave a list"),
        ("paper", lambda cls, figure, result, recipe: 0.5, "Odd.paper: gave a float"),
    ],
)
def test_what_a_measure_says_wrongly_is_one_sentence(
    method: str, answer: Any, rule: str, tokenizer: Path, tmp_path: Path
) -> None:
    def run(self: mk.Measure, request: mk.Request) -> mk.Outcome:
        return mk.Outcome({"protocol": "p", "rows": {"it": {"top1": 0.5}}})

    def show() -> None:
        mk.evaluate(tokenizer, "odd")
        gather([tokenizer])
        write_report(tokenizer, tmp_path / "page.html")

    odd = type("Odd", (mk.Measure,), {"needs": "tokenizer", "run": run, method: classmethod(answer)})
    mk.MEASURES.register("odd")(odd)
    try:
        with pytest.raises(mk.MageKitError, match=rule):
            show()
    finally:
        mk.MEASURES._entries.pop("odd")
        (tokenizer / "eval" / "odd.json").unlink()
