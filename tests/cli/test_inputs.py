"""`--input` and its like: files, images, random values, and a candidate fed apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import refused, strict


@pytest.mark.parametrize("spec", ["x.npz", "x.npy", "input=x.npy"])
def test_inputs_from_files(run: Any, fixtures: Path, feeds: Path, tmp_path: Path, spec: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(feeds)
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", "--input", spec, "--json", "out.json")
    document = strict((tmp_path / "out.json").read_text())
    assert done.code == 0
    assert document["warnings"] == []
    # 0..1 in, so the stem sees no negative pixel: the statistics differ from those of the default feed
    assert run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", "--json", "default.json").code == 0
    default = strict((tmp_path / "default.json").read_text())
    means = [d["pairs"][0]["metrics"]["mean_reference"] for d in (document, default)]
    assert abs(means[0] - means[1]) > 1e-3


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nan.npy", ("NaN", "(0, 1, 2, 3)", "--allow-nonfinite")),
        ("last.npy", ("1x3x32x40", "1x32x40x3")),
        ("pixels=x.npy", ("pixels", "input")),
        ("other_name.npz", ("pixels", "input")),
        ("words.npy", ("input",)),
        ("objects.npy", ("objects.npy",)),
        ("noise.npz", ("noise.npz",)),
        (".", (".",)),
    ],
)
def test_feeds_that_do_not_fit(
    run: Any, fixtures: Path, feeds: Path, monkeypatch: pytest.MonkeyPatch, spec: str, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(feeds)
    refused(run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", "--input", spec), *words)
    refused(run("capture", fixtures / "cnn.onnx", "-o", "t.npz", "--input", spec), *words)


def test_allow_nonfinite_proves_nothing_but_says_so(run: Any, fixtures: Path, feeds: Path) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn.onnx"
    done = run("diff", *pair, "--input", feeds / "nan.npy", "--allow-nonfinite", "--json", feeds / "out.json")
    document = strict((feeds / "out.json").read_text())
    last = document["pairs"][-1]
    assert last["metrics"]["nan_reference"] > 0
    assert last["status"] == "unknown"
    assert done.code == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("as_it_lies.npy", "layout"),
        ("bgr.npy", "input_channel_order"),
        ("scaled.npy", "input_normalization"),
        ("flipped.npy", "flip"),
    ],
)
def test_a_candidate_fed_apart_is_found_out(run: Any, fixtures: Path, feeds: Path, name: str, kind: str) -> None:
    files = ("--input", feeds / "x.npy", "--candidate-input", feeds / name, "--json", feeds / "out.json")
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", *files)
    document = strict((feeds / "out.json").read_text())
    assert done.code == 1
    assert any(f"({kind})" in warning for warning in document["warnings"]), document["warnings"]
    assert kind in done.out
    assert document["faults"] == []  # every operator does what it should


def test_a_candidate_fed_alike_is_no_finding(run: Any, fixtures: Path, feeds: Path) -> None:
    files = ("--input", feeds / "x.npy", "--candidate-input", feeds / "last.npy", "--json", feeds / "out.json")
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn.tflite", *files)
    assert done.code == 0
    assert strict((feeds / "out.json").read_text())["warnings"] == []


def test_images_go_through_the_preprocessing(run: Any, fixtures: Path, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(3).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    options = ("--resize", "32,40", "--mean", "127.5,127.5,127.5", "--std", "127.5,127.5,127.5", "--keep-aspect-ratio")
    done = run("diff", fixtures / "cnn.onnx", fixtures / "cnn_int8.tflite", "--input", tmp_path / "photo.png", *options)
    assert done.code == 0, done.out + done.err


def test_a_negative_range_is_a_value_not_an_option(run: Any, fixtures: Path, tmp_path: Path) -> None:
    pair = fixtures / "cnn.onnx", fixtures / "cnn.onnx"
    done = run("diff", *pair, "--val-range", "-9,-8", "--json", tmp_path / "o.json")
    assert done.code == 0, done.err
    document = strict((tmp_path / "o.json").read_text())
    other = run("diff", *pair, "--val-range", "8,9", "--json", tmp_path / "p.json")
    assert other.code == 0
    means = [d["pairs"][0]["metrics"]["mean_reference"] for d in (document, strict((tmp_path / "p.json").read_text()))]
    assert means[0] != means[1]


def test_the_seed_is_what_makes_the_feed(run: Any, fixtures: Path, tmp_path: Path) -> None:
    def mean(seed: int) -> float:
        run("diff", fixtures / "cnn.onnx", fixtures / "cnn.onnx", "--seed", seed, "--json", tmp_path / "o.json")
        return float(strict((tmp_path / "o.json").read_text())["pairs"][0]["metrics"]["mean_reference"])

    assert mean(1) == mean(1) != mean(2)
