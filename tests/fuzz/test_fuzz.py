"""A bounded share of the fuzzing in every run of the tests; `python tests/fuzz` is the long one."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aligndbg
from aligndbg.core.errors import FeedError, ModelError
from aligndbg.core.types import Quant, TensorInfo
from aligndbg.feeds.files import load_inputs
from aligndbg.trace.reader import read_trace
from harness import Seed, Tally, Victim, _troubles, fuzz
from seeds import make_seeds

PARTS, EACH = 3, 40

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    return make_seeds(tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_files_neither_crash_nor_hang_nor_litter(seeds: list[Seed], part: int) -> None:
    tally = fuzz(seeds, EACH, seconds=60, first=part * EACH)
    assert not tally.failures, tally.text()
    assert sum(tally.ends.values()) >= 5, "too few to mean anything"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"code": None, "err": "Traceback (most recent call last):\n...", "out": ""}, "exit code None"),
        ({"code": 0, "err": "Traceback (most recent call last):\n...", "out": ""}, "traceback"),
        ({"code": 2, "err": "", "out": ""}, "refused without an error"),
        ({"code": 7, "err": "", "out": ""}, "exit code 7"),
        ({"code": 0, "err": "", "out": "a\x1b[31m"}, "terminal"),
    ],
)
def test_what_counts_as_a_failure(tmp_path: Path, answer: dict[str, Any], said: str) -> None:
    victim = cast(Victim, SimpleNamespace(children=list))
    assert any(said in trouble for trouble in _troubles(victim, {"end": "answered", **answer}, tmp_path))
    fine = {"end": "answered", "code": 1, "err": "", "out": "fine\n"}
    assert list(_troubles(victim, fine, tmp_path)) == []


def test_a_dead_and_a_hung_process_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    victim = Victim(tmp_path)
    hung = victim.run(["demo"], limit=0.0)
    assert (hung["end"], victim.alive) == ("hung", False)
    assert victim.run(["--version"], limit=60)["code"] == 0
    assert victim._process is not None
    victim._process.kill()
    victim._process.wait()
    with pytest.raises(BrokenPipeError):
        victim.run(["--version"], limit=60)
    assert Tally().text().startswith("0 mutated files")


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata of a small trace, and its arrays."""
    path = tmp_path_factory.mktemp("trace") / "t.npz"
    node = aligndbg.MemoryNode("Relu", lambda x: np.maximum(x, 0), ("x",), ("y",), {"table": np.arange(3), "raw": b"a"})
    quant = {"y": Quant(np.ones(3, np.float32), np.zeros(3, np.int64), 1)}
    model = aligndbg.MemoryBackend(inputs={"x": (2, 3)}, nodes=[node], outputs=["y"], quant=quant)
    aligndbg.capture(model, output=path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(arrays.pop("__aligndbg__").tobytes()), arrays


def use(path: Path) -> None:
    """Reads everything of a trace, as the stages do."""
    trace = read_trace(path)
    for name in trace.order:
        np.asarray(trace.values[name])
    for feed in (trace.feeds or {}).values():
        np.asarray(feed)
    aligndbg.print_layers(path)
    trace.graph.consumers()
    trace.graph.tappable()


@settings(max_examples=150)
@given(data=st.data())
def test_metadata_of_any_json_is_read_or_refused(
    metadata: tuple[dict[str, Any], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    document, arrays = json.loads(json.dumps(metadata[0])), metadata[1]
    place: Any = document
    key = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
    place[key] = data.draw(JSON)
    path = tmp_path_factory.getbasetemp() / "odd.npz"
    text = json.dumps(document).encode("utf-8", "replace")
    np.savez(path, __aligndbg__=np.frombuffer(text, np.uint8), **arrays)
    with contextlib.suppress(ModelError):
        use(path)


@settings(max_examples=150)
@given(
    header=st.fixed_dictionaries({}, optional={"x": JSON, "__metadata__": JSON, "y": JSON}) | JSON,
    entry=st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "I4", "", "BOOL"]),
            "shape": st.lists(st.integers(-1, 2**65) | st.integers(0, 3), max_size=3),
            "data_offsets": st.lists(st.integers(-1, 40), min_size=1, max_size=3),
        }
    ),
)
def test_any_safetensors_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: Any, entry: Any
) -> None:
    document = {**header, "z": entry} if isinstance(header, dict) else header
    text = json.dumps(document).encode("utf-8", "replace")
    path = tmp_path_factory.getbasetemp() / "odd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
    with contextlib.suppress(ModelError):
        use(path)


@settings(max_examples=150)
@given(
    header=st.text(max_size=60)
    | st.builds(
        "{{'descr': {}, 'fortran_order': {}, 'shape': {}}}".format,
        st.sampled_from(["'<f4'", "'|O'", "'<i0'", "'V0'", "'>f4'", "None", "'<U3'"]),
        st.sampled_from(["True", "False", "1"]),
        st.lists(st.integers(-2, 2**40) | st.integers(0, 3), max_size=3).map(lambda sizes: str(tuple(sizes))),
    ),
    body=st.binary(max_size=64),
    version=st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\4\0"]),
)
def test_any_npy_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: str, body: bytes, version: bytes
) -> None:
    raw = header.encode("latin-1", "replace")
    data = b"\x93NUMPY" + version + len(raw).to_bytes(2 if version == b"\1\0" else 4, "little") + raw + body
    path = tmp_path_factory.getbasetemp() / "odd.npy"
    path.write_bytes(data)
    with contextlib.suppress(FeedError):
        found = load_inputs([str(path)], [TensorInfo("x", None, "float32")])["x"]
        as_numpy = np.load(io.BytesIO(data)).astype(np.float32)
        assert (found.shape, found.tobytes()) == (as_numpy.shape, as_numpy.tobytes())
