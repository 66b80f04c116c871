"""The export tests of a project that ships one network in several formats. `models/` holds its files."""

from pathlib import Path

import numpy as np
import pytest

MODELS = Path(__file__).parent / "models"
REFERENCE = MODELS / "cnn.onnx"


@pytest.mark.parametrize("export", ["cnn.tflite", "cnn_opset_b.onnx"])
def test_float_exports(assert_aligned, export):
    assert_aligned(REFERENCE, MODELS / export)


@pytest.mark.aligndbg(min_cosine=0.98)
class TestInt8:
    def test_outputs(self, assert_aligned):
        assert_aligned(REFERENCE, MODELS / "cnn_int8.tflite", isolate=False)

    @pytest.mark.aligndbg(min_cosine=0.99999)
    def test_too_much_is_asked(self, assert_aligned):
        assert_aligned(REFERENCE, MODELS / "cnn_int8.tflite", isolate=False)


def test_a_broken_export(assert_aligned):
    image = np.random.default_rng(1).random((1, 3, 32, 40), np.float32)
    assert_aligned(REFERENCE, MODELS / "cnn_weight_fault.tflite", image)


@pytest.mark.aligndbg(baseline=True)
def test_a_known_difference(assert_aligned):
    found = assert_aligned(REFERENCE, MODELS / "cnn_weight_fault.tflite")
    assert found.verdict == "diverged"
