"""Distances from the command line, in one process and in two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.test_commands import call, folders, result


def test_distances_from_the_command_line(run: Path, network: Path, tmp_path: Path) -> None:
    real, kept = folders(tmp_path / "real"), tmp_path / "real.safetensors"
    size = ("--width", 32, "--height", 32, "--grey", "--side", 0)
    assert "there is no FID" in str(call("eval", "reference", real, "--out", kept, *size).exception)
    assert "there is no FID" in str(call("eval", "fid", run).exception)
    assert call("eval", "reference", real, "--out", kept, "--extractor", network, *size).exit_code == 0
    assert "exists; choose another" in str(call("eval", "reference", real, "--out", kept, *size).exception)
    told = ("--extractor", network, "--side", 0)
    assert "--reference: none given" in str(call("eval", "fid", run, *told).exception)
    done = call("eval", "fid", run, "--reference", kept, *told, "-n", 12, "--steps", 2)
    assert done.exit_code == 0 and "gFID (SMOKE FIGURE of 12 images" in done.output.replace("\n", " "), done.output
    held = result(run, "fid")
    assert held["decoding"]["steps"] == 2 and held["reference"]["name"] == "real" and not held["comparable"]
    assert "FID" not in done.output.replace("gFID", ""), "never a bare FID"
    done = call("eval", "rfid", run, "--data", real, *told)
    assert done.exit_code == 0 and result(run, "rfid")["name"].startswith("rFID (SMOKE FIGURE")


def test_two_processes_measure_what_one_does(run: Path, network: Path, tmp_path: Path) -> None:
    kept = tmp_path / "real.safetensors"
    size = ("--width", 32, "--height", 32, "--grey", "--side", 0)
    folders(tmp_path / "real", images=12)
    assert call("eval", "reference", tmp_path / "real", "--out", kept, "--extractor", network, *size).exit_code == 0
    made = []
    for count in (1, 2):
        command = [
            sys.executable,
            "-m",
            "mage_kit.cli",
            "eval",
            "fid",
            str(run),
            "--reference",
            str(kept),
            "--overwrite",
        ]
        command += ["--extractor", str(network), "--side", "0", "-n", "22", "--batch", "4", "--steps", "2"]
        done = subprocess.run([*command, "--processes", str(count)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("gFID") == 1, "one process speaks"
        made.append(result(run, "fid"))
    one, two = made
    first, second = one["rows"]["images"], two["rows"]["images"]
    assert first["frechet"] == pytest.approx(second["frechet"], rel=1e-6) and one["duplicates"] == two["duplicates"]
    assert (first["precision"], first["recall"]) == (second["precision"], second["recall"])
    assert first["kid"] == pytest.approx(second["kid"], rel=1e-6), "in the images' order, whoever made them"
