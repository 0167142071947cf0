"""`pytest` runs the tests; `pytest --benchmark` runs benchmarks/ and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

_BENCHMARKS = Path(__file__).parent / "benchmarks"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The bare flag; pytest-benchmark's own options all have longer names."""
    parser.addoption("--benchmark", action="store_true", help="time the kernels (benchmarks/) instead of testing")


def pytest_configure(config: pytest.Config) -> None:
    """Turn to the benchmarks where nothing else was named."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    timing = bool(config.getoption("--benchmark"))
    for argument in config.args if named else ():
        place = Path(str(config.invocation_params.dir), argument.split("::")[0]).resolve()
        if place != _BENCHMARKS.parent and (_BENCHMARKS in (place, *place.parents)) != timing:
            rule = "--benchmark times benchmarks/ alone" if timing else "benchmarks/ needs --benchmark"
            raise pytest.UsageError(f"{argument}: {rule}")
    if timing:
        config.option.benchmark_quiet = True  # ours is the table that says what the times mean
        if not named:
            config.args = [str(_BENCHMARKS)]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Keep tests and benchmarks apart."""
    inside = _BENCHMARKS in (collection_path, *collection_path.parents)
    is_folder = collection_path.is_dir() and collection_path in _BENCHMARKS.parents
    return True if inside != bool(config.getoption("--benchmark")) and not is_folder else None
