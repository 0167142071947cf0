"""The GPU's benchmark, where there is none: its commands, and that no part costs the others' figures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.differences import differences
from benchmarks.gpu import arguments, measure, result_file
from benchmarks.gpu_parts import Part, parts, verdicts

ROOT = Path(__file__).parent.parent.parent


def gpu(*words: str, limit: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    done = gpu("--out", str(tmp_path / "results"))
    assert done.returncode == 2 and done.stderr.strip() == "no GPU that torch can use: nothing measured"
    assert not (tmp_path / "results").exists()


def test_every_command_is_read_by_its_own_parser(tmp_path: Path) -> None:
    done = gpu("--dry-run")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(parts(64, False))
    assert sum(part.limit for part in parts(64, False)) < 480
    wrong = Part("wrong", "benchmarks.operations", ("--no-such-word",), 1)
    with pytest.raises(SystemExit):
        wrong.check(tmp_path / "part.json")


def test_a_part_that_fails_hangs_or_is_left_out_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = {
        "good_part": "import sys, json; open(sys.argv[-1], 'w').write(json.dumps({'value': 1}))",
        "bad_part": "raise SystemExit('broken here')",
        "slow_part": "import time; print('begun', flush=True); time.sleep(60)",
        "cut_part": "import sys, time, pathlib; pathlib.Path(sys.argv[-1]).write_text('[1'); time.sleep(60)",
        "busy_part": "import subprocess; child = subprocess.Popen(['sleep', '71']); print(child.pid); child.wait()",
    }
    for name, text in programs.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    names = ("bad_part", "slow_part", "cut_part", "busy_part", "good_part")
    chosen = [Part(name, name, (), 3) for name in names] + [Part("needy", "good_part", (), 3, ("no_such_package",))]
    target = tmp_path / "result.json"
    measure(chosen, target, {"gpu": "none"})
    found = json.loads(target.read_text())["parts"]
    assert found["bad_part"]["exit_code"] == 1 and found["bad_part"]["last_words"] == ["broken here"]
    assert found["slow_part"]["stopped_after"] == 3 and found["slow_part"]["last_words"] == ["begun"]
    assert found["cut_part"]["stopped_after"] == 3 and "cannot be read" in found["cut_part"]["unreadable"]
    child = Path("/proc", found["busy_part"]["last_words"][0])
    until = time.monotonic() + 5
    while child.exists() and "Z" not in (child / "stat").read_text().split() and time.monotonic() < until:
        time.sleep(0.05)  # it was killed with the part that started it; whoever adopted it reaps it
    assert not child.exists() or "Z" in (child / "stat").read_text().split()
    assert found["good_part"]["exit_code"] == 0 and found["good_part"]["result"] == {"value": 1}
    assert found["needy"] == {"left_out": "for want of no_such_package"}


def test_what_was_not_measured_does_not_hold() -> None:
    lines = list(verdicts({}))
    assert lines and all("not measured" in line for line in lines)
    vitl = {"step_ratio_live": 7.0}
    forms = {"compiled, cached, 256 images": {"share": 0.3, "peak_to_plan": 0.93}, "compiled, live": {"failed": "why"}}
    generation = {"as written, 1 images": {"seconds": 0.4}, "graph, 1 images": {"seconds": 0.1}}
    operation = {"operation": "pad", "size": "vitb_decoder", "form": "triton", "seconds": 50e-6}
    results = {"vitl": vitl, "operations": {"operations": [operation]}, "vitl forms": {"forms": forms}}
    lines = list(verdicts({**results, "generation": {"forms": generation}}))
    assert "vitl step, float32: 7 (demand 6): holds" in lines
    assert "vitl step from cached tokens, share of the matrix ceiling: 0.3 (demand 0.5): does not hold" in lines
    assert "pad vitb_decoder, us: 50 (demand 60): holds" in lines
    assert "vitl memory, distance from the plan: 0.07 (demand 0.1): holds" in lines
    assert "vitl generation of 1 image, as a graph: 4 (demand 3): holds" in lines


def test_what_changed_between_two_results() -> None:
    def result(seconds: float, share: float) -> dict[str, Any]:
        line = {"operation": "pad", "size": "small", "form": "torch", "seconds": seconds}
        return {
            "gpu": "any",
            "parts": {"operations": {"exit_code": 0, "result": {"operations": [line]}}, "share": share},
        }

    assert differences(result(1.0, 0.5), result(2.0, 0.51)) == [
        "parts.operations.result.operations[pad small torch].seconds: 1 -> 2 (2.00x)"
    ]
    assert differences(result(1.0, 0.5), result(1.0, 0.5)) == ["nothing by over 5%"]


@pytest.mark.slow
def test_every_part_runs_small_on_a_cpu(tmp_path: Path) -> None:
    done = gpu("--toy", "--out", str(tmp_path), limit=480)
    (file,) = tmp_path.glob("*.json")
    result = json.loads(file.read_text())
    assert done.returncode == 0, (done.stdout[-2000:], result["parts"])
    assert not result["parts"]["operations"]["result"]["failed"]
    assert set(result["parts"]["checks"]["result"]["checks"].values()) == {"holds"}
    assert result["parts"]["vitl"]["result"]["step_ratio_live"] > 0
    for name in ("vitl forms", "vitb forms", "generation", "engines"):
        forms = result["parts"][name]["result"]["forms"]
        assert forms and not [line for line in forms.values() if "failed" in line], (name, forms)


def test_mistakes_show_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence and exit code 2, with --dry-run too."""

    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run", *words])
        with pytest.raises(SystemExit) as left:
            arguments()
        assert left.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    for name, text in (("text", "no JSON"), ("list", "[1]"), ("other", '{"a": 1}'), ("bytes", "\udcff")):
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    wrong = [("--compare", name) for name in ("absent", "text", "list", "other", "bytes", ".")] + [("--out", "text")]
    for option, name in wrong:
        last = said(option, str(tmp_path / name))
        assert f"{option} {tmp_path / name}" in last and "Error" not in last
    for number in ("0", "-3", "many"):
        assert "--images: " in said("--images", number)


def test_a_second_result_of_a_day_stands_beside_the_first(tmp_path: Path) -> None:
    first = result_file(tmp_path, "NVIDIA H100 80GB")
    first.write_text("{}")
    second = result_file(tmp_path, "NVIDIA H100 80GB")
    assert first.name.startswith("nvidia-h100-80gb-20") and second.name == f"{first.stem}-2.json"


def test_a_part_that_only_one_result_has_is_said() -> None:
    before, after = ({"parts": {name: {"result": {}}}} for name in ("vitb", "vitl"))
    assert differences(before, after)[1:] == ["vitb: measured before, not now", "vitl: measured now, not before"]
