from __future__ import annotations

import io
import os
import random
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligndbg import diff
from aligndbg.backends.open import open_model
from aligndbg.core.errors import FeedError, ModelError, UnsupportedError, UsageError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from aligndbg.backends.torch.backend import TorchBackend  # noqa: E402
from torch_networks import Small, Tricky, small  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
THREADS = {"threads": "1"}
X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


class Function(nn.Module):
    """A forward() given as a function of one tensor."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def opened(model: Any, feeds: dict[str, Any] | None = None, **options: str) -> TorchBackend:
    """With its graph known for the feeds."""
    backend = TorchBackend(model, THREADS | options)
    if feeds is not None:
        assert list(backend.run(feeds, ())) == []
    return backend


def values(backend: TorchBackend, feeds: dict[str, Any], overrides: Any = None) -> dict[str, Any]:
    return dict(backend.run(feeds, backend.graph().tappable(), overrides))


def of(function: Any, x: Any) -> tuple[TorchBackend, dict[str, Any]]:
    backend = opened(Function(function), {"x": x})
    return backend, values(backend, {"x": x})


# ---- names, scope, canonical operators


def test_names_are_module_path_op_and_call() -> None:
    graph = opened(small(), {"x": X}).graph()
    names = [node.name for node in graph.nodes]
    assert names[:5] == [
        "stem:conv2d@0",
        "block.conv:conv2d@0",
        "block.norm:batch_norm@0",
        "block:add@0",
        "block.act:relu_@0",
    ]
    assert "block.conv:conv2d@1" in names  # the same module, called again
    assert ":chunk@0[1]" in graph.tappable()
    assert graph.outputs == (":softmax@0",)


def test_scope_is_the_module_and_the_line_that_calls_it() -> None:
    conv = opened(small(), {"x": X}).graph().nodes[1]
    module, _, line = conv.scope.partition(" ")
    assert module == "block.conv"
    name, _, number = line.strip("()").partition(":")
    assert name.endswith("torch_networks.py")
    source = (Path(__file__).parents[3] / "fixtures" / "torch_networks.py").read_text().splitlines()
    assert "self.conv(x)" in source[int(number) - 1]


def test_operators_have_onnx_words_and_attributes() -> None:
    nodes = {node.name: node for node in opened(small(), {"x": X}).graph().nodes}
    conv = nodes["stem:conv2d@0"]
    assert (conv.op_type, conv.canonical) == ("conv2d", "Conv")
    assert conv.attributes == {"strides": [1, 1], "dilations": [1, 1], "group": 1, "pads": [1, 1, 1, 1]}
    assert conv.inputs == ("x", "stem.weight", "stem.bias")
    assert nodes["block.norm:batch_norm@0"].attributes == {"epsilon": 1e-5}
    pool = nodes[":max_pool2d@0"]
    assert pool.canonical == "MaxPool"
    assert pool.attributes["strides"] == pool.attributes["kernel_shape"] == [2, 2]
    words = ["Split", "MaxPool", "AveragePool", "Concat", "Resize", "ReduceMean", "Flatten", "Gemm", "Softmax"]
    assert [node.canonical for node in nodes.values()][-9:] == words


def test_exported_programs_use_the_names_of_their_nodes(tmp_path: Path) -> None:
    program = torch.export.export(small(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "m.pt2")
    backend = opened(str(tmp_path / "m.pt2"))
    graph = backend.graph()  # known before it runs: an exported program has its shapes
    program = torch.export.load(tmp_path / "m.pt2")
    calls = [n.name for n in program.graph.nodes if n.op == "call_function" and n.target.__name__ != "getitem"]
    assert [node.name for node in graph.nodes] == calls
    assert graph.nodes[1].scope.startswith("block.conv (")
    assert "stem.weight" in graph.constants
    assert np.array_equal(values(backend, {"x": X})[graph.outputs[0]], small()(torch.from_numpy(X)).detach().numpy())


def test_script_calls_are_named_after_their_weights(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(small(), torch.zeros(1, 3, 8, 8)), str(tmp_path / "m.pt"))
    backend = opened(str(tmp_path / "m.pt"), {"x": X})
    assert [node.name for node in backend.graph().nodes[:2]] == ["stem:_convolution@0", "block.conv:_convolution@0"]
    assert backend.graph().nodes[0].canonical == "Conv"


def test_a_number_that_a_trace_holds_as_a_tensor() -> None:
    def halved(x: Any) -> Any:
        return torch.fft.irfft(torch.fft.rfft(x) * 0.5, n=8)

    traced = torch.jit.trace(Function(halved), torch.from_numpy(X), check_trace=False)  # a check would run it
    backend = opened(traced, {"x": X})
    np.testing.assert_allclose(values(backend, {"x": X})[backend.graph().outputs[0]], X / 2, atol=1e-6)


# ---- values that share memory


def test_in_place_operators_do_not_overwrite_what_came_before() -> None:
    _, found = of(lambda x: (x * 2).relu_().add_(1), np.array([-1.0, 3.0], np.float32))
    assert found[":mul@0"].tolist() == [-2, 6]
    assert found[":relu_@0"].tolist() == [0, 6]
    assert found[":add_@0"].tolist() == [1, 7]


def test_a_write_through_a_view_reaches_its_base_and_nothing_else() -> None:
    def network(x: Any) -> Any:
        y = x.clone()
        left, right = y[:, :2], y[:, 2:]
        left.mul_(10)
        return y + 0, right + 0

    x = np.arange(4, dtype=np.float32)[None]
    backend, found = of(network, x)
    assert found[":mul_@0"].tolist() == [[0, 10]]
    assert found[":mul_@0[1]"].tolist() == [[0, 10, 2, 3]]  # what y holds then
    assert ":mul_@0[2]" not in found  # right lies elsewhere
    base = next(node for node in backend.graph().nodes if node.name == ":mul_@0[1]")
    assert base.canonical == "ScatterND"
    assert base.inputs == (":clone@0", ":mul_@0")
    other = values(backend, {"x": x}, {":mul_@0": np.array([[7, 8]], np.float32)})
    assert other[":mul_@0[1]"].tolist() == [[7, 8, 2, 3]]
    assert other[":add@0"].tolist() == [[7, 8, 2, 3]]
    assert other[":add@1"].tolist() == [[2, 3]]
    view = next(name for name in found if name.startswith(":slice") and found[name].tolist() == [[2, 3]])
    changed = values(backend, {"x": x}, {view: np.array([[5, 6]], np.float32)})
    assert changed[":add@0"].tolist() == [[0, 10, 2, 3]]
    assert changed[":add@1"].tolist() == [[5, 6]]


def test_a_write_that_covers_a_view_leaves_nothing_of_it() -> None:
    def network(x: Any) -> Any:
        y = x.clone()
        row = y[0]
        y.zero_().add_(3)
        return row * 2

    backend, found = of(network, np.ones((2, 2), np.float32))
    assert found[":mul@0"].tolist() == [6, 6]
    covered = next(node for node in backend.graph().nodes if node.canonical == "Slice" and "add_" in node.name)
    assert covered.inputs == (":add_@0",)


def test_a_write_through_a_view_of_another_type_is_refused() -> None:
    def network(x: Any) -> Any:
        y = x.clone()
        y.view(torch.int32).bitwise_and_(0x7FFFFFFF)
        return y + 1

    with pytest.raises(UnsupportedError, match="reads as float32"):
        opened(Function(network), {"x": np.ones(3, np.float32)})


def test_uninitialized_memory_is_not_compared() -> None:
    backend, found = of(lambda x: torch.empty(2).copy_(x) + 1, np.ones(2, np.float32))
    assert "nothing has been written" in backend.graph().untapped[":empty@0"]
    assert found[":copy_@0"].tolist() == [1, 1]
    with pytest.raises(UnsupportedError):
        list(backend.run({"x": np.ones(2, np.float32)}, [":empty@0"]))


# ---- the module stays as it was


def test_buffers_hooks_and_settings_are_put_back() -> None:
    model = Tricky()
    model.block = nn.BatchNorm1d(4)  # in training mode: its statistics move
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    random.seed(5)
    drawn = torch.rand(1), random.random()
    torch.manual_seed(5)
    random.seed(5)
    feeds = {"x": np.ones((2, 4, 6), np.float32), "scale": np.ones(6, np.float32)}
    backend = opened(model, feeds)
    for overrides in (None, {":mul@0": np.zeros((2, 4, 6), np.float32)}):
        values(backend, feeds, overrides)
    list(backend.run(feeds, backend.graph().outputs))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (torch.rand(1), random.random()) == drawn
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not torch.is_inference_mode_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_running_statistics_that_a_schema_hides_are_put_back() -> None:
    norm = nn.BatchNorm1d(3)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    backend = opened(norm, {"input": x})
    first = values(backend, {"input": x})
    again = values(backend, {"input": x})
    assert norm.running_mean.tolist() == [0, 0, 0]
    assert int(norm.num_batches_tracked) == 0
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert np.allclose(first[":batch_norm@0[1]"], 0.1 * x.mean(0), atol=1e-6)


def test_everything_is_put_back_when_forward_fails() -> None:
    def network(x: Any) -> Any:
        raise KeyError("boom")

    with pytest.raises(ModelError, match="KeyError: 'boom'") as caught:
        opened(Function(network), {"x": X})
    assert "float32[1, 3, 8, 8]" in str(caught.value)
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


# ---- control flow, random numbers, constants


def test_the_branch_that_is_taken_is_the_graph() -> None:
    backend = opened(Function(lambda x: x.exp() if x.sum() > 0 else x.neg()), {"x": np.ones(2, np.float32)})
    assert [node.op_type for node in backend.graph().nodes if node.outputs[0] in backend.graph().outputs] == ["exp"]
    list(backend.run({"x": -np.ones(2, np.float32)}, ()))
    assert [node.op_type for node in backend.graph().nodes if node.outputs[0] in backend.graph().outputs] == ["neg"]


@pytest.mark.skipif(
    not hasattr(TorchDispatchMode, "supports_higher_order_operators"), reason="this torch shows no mode what cond runs"
)
def test_torch_cond_is_seen_from_inside() -> None:
    model = Function(lambda x: torch.cond(x.sum() > 0, lambda a: a.sin() * 2, lambda a: a.cos(), (x,)))
    backend = opened(model, {"x": np.ones(2, np.float32)})
    assert [node.op_type for node in backend.graph().nodes][-2:] == ["sin", "mul"]


def test_random_numbers_repeat_and_follow_the_seed() -> None:
    x = np.zeros(50, np.float32)
    drop = Function(lambda x: F.dropout(x + 1, 0.5) + torch.randn(50))
    one, again, other = (opened(drop, {"x": x}, seed=seed) for seed in ("1", "1", "2"))
    name = one.graph().outputs[0]
    assert np.array_equal(values(one, {"x": x})[name], values(again, {"x": x})[name])
    assert np.array_equal(values(one, {"x": x})[name], dict(one.run({"x": x}, [name]))[name])  # replayed and plain
    assert not np.array_equal(values(one, {"x": x})[name], values(other, {"x": x})[name])


def test_constants_are_weights_and_what_is_made_of_them() -> None:
    model: Any = Function(lambda x: x @ (model.weight.t() * 2) + torch.tensor([1.0, 2.0]))
    model.weight = nn.Parameter(torch.eye(2))
    backend = opened(model, {"x": np.ones((1, 2), np.float32)})
    graph = backend.graph()
    assert {"weight", ":t@0", ":mul@0"} <= graph.constants
    assert dict(backend.run({}, [":mul@0"]))[":mul@0"].tolist() == [[2, 0], [0, 2]]


def test_an_input_may_be_named_like_a_parameter() -> None:
    model: Any = Function(lambda x: x * model.x)
    model.x = nn.Parameter(torch.full((2,), 3.0))
    backend = opened(model, {"x": np.ones(2, np.float32)})
    assert backend.graph().inputs == ("x",)
    assert backend.graph().nodes[0].inputs == ("x", "x#1")
    assert dict(backend.run({}, ["x#1"]))["x#1"].tolist() == [3, 3]


def test_sizes_read_from_values_are_read_again() -> None:
    program = torch.export.export(Function(lambda x: x.nonzero() * 2), (torch.ones(3),))
    backend = opened(program)
    for x, rows in ((np.ones(3, np.float32), 3), (np.array([0, 1, 0], np.float32), 1)):
        list(backend.run({"x": x}, ()))
        assert values(backend, {"x": x})[backend.graph().outputs[0]].shape == (rows, 1)


def test_what_leaves_torch_is_said() -> None:
    backend = opened(Function(lambda x: torch.from_numpy(x.numpy() * 2) + x), {"x": X})
    assert any("leaves torch" in note for note in backend.graph().notes)
    assert not opened(small(), {"x": X}).graph().notes


# ---- feeds, dtypes, outputs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision(dtype: str) -> None:
    result = diff(small(), small().to(getattr(torch, dtype)), torch.from_numpy(X))
    assert result.verdict == "aligned"
    backend = TorchBackend(small().to(getattr(torch, dtype)), {})
    assert backend.graph().tensors["x"].dtype == dtype


def test_inputs_of_a_signature_that_needs_none() -> None:
    class Many(nn.Module):
        def forward(self, ids: Any = None, mask: Any = None, other: Any = None) -> Any:
            return {"out": ids * mask, "again": (ids + 1,)}

    feeds = {"ids": np.arange(3), "mask": np.ones(3, np.int64)}
    with pytest.raises(UsageError, match="not known") as caught:
        TorchBackend(Many(), {})
    assert "inputs=ids,mask" in str(caught.value)
    backend = opened(Many(), feeds, inputs="ids,mask")
    assert backend.graph().inputs == ("ids", "mask")
    assert len(backend.graph().outputs) == 2
    assert opened(Many(), feeds, inputs="2").graph().inputs == ("ids", "mask")
    with pytest.raises(UsageError, match="no parameter 'idx'"):
        TorchBackend(Many(), {"inputs": "idx"})
    result = diff(Many(), Many(), {"ids": torch.arange(3.0), "mask": torch.rand(3)})
    assert result.verdict == "aligned"


def test_what_need_not_be_fed_is_fed_where_the_other_side_is(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, x: Any, mask: Any = None, scaled: bool = False) -> Any:
            return (x * 2 if mask is None else x * mask) + scaled

    x, mask = torch.rand(2, 3), torch.rand(2, 3)
    for given in ({"x": x, "mask": mask}, (x, mask), [x.numpy(), mask.numpy()]):
        assert diff(Masked(), Masked(), given).matching.coverage_candidate.compared == 2
    assert diff(Masked(), Masked(), (x,)).verdict == "aligned"
    exported = torch.export.export(Masked(), (x, mask))
    assert diff(exported, Masked()).verdict == "aligned"  # fed at random: what to feed is what the reference takes
    with pytest.raises(UsageError, match="input 'x' is missing"):
        diff(Masked(), Masked(), {"mask": mask})


def test_variadic_inputs() -> None:
    class Star(nn.Module):
        def forward(self, *xs: Any) -> Any:
            return xs[0] - xs[1]

    backend = opened(Star(), {"xs_0": np.ones(2), "xs_1": np.arange(2.0)}, inputs="2")
    assert values(backend, {"xs_0": np.ones(2), "xs_1": np.arange(2.0)})[":sub@0"].tolist() == [1, 0]


def test_shapes_may_change_but_not_ranks() -> None:
    backend = opened(small(), {"x": X})
    wide = np.repeat(X, 2, axis=0)
    list(backend.run({"x": wide}, ()))
    assert values(backend, {"x": wide})["stem:conv2d@0"].shape == (2, 4, 8, 8)
    with pytest.raises(FeedError, match="'x'"):
        list(backend.run({"x": X[0]}, ()))


def test_layers_are_known_from_a_shape() -> None:
    assert not TorchBackend(small(), {}).graph().nodes
    assert len(TorchBackend(small(), {"shape": "1x3x8x8"}).graph().nodes) > 10
    for bad in ("1xax3", "y=1x3", "x="):
        with pytest.raises(UsageError):
            TorchBackend(small(), {"shape": bad})


# ---- what is said of a model


def test_training_mode_is_said(tmp_path: Path) -> None:
    backend = TorchBackend(Small().train(), {})
    assert "block.norm (BatchNorm2d)" in backend.graph().notes[0]
    assert not TorchBackend(Small().train(), {"eval": "yes"}).graph().notes
    result = diff(Small().train(), small(), torch.from_numpy(X))
    assert any("training mode" in warning for warning in result.warnings)


def test_compiled_modules_run_as_they_were_written() -> None:
    model = small()
    plain, compiled = opened(model, {"x": X}), opened(torch.compile(model), {"x": X})
    assert "torch.compile is not followed" in compiled.graph().notes[0]
    assert [node.name for node in compiled.graph().nodes] == [node.name for node in plain.graph().nodes]
    model.block = torch.compile(model.block)
    inner = opened(model, {"x": X})
    assert "block" in inner.graph().notes[0]
    assert "block.conv:conv2d@1" in inner.graph().tappable()


def test_attention_is_seen_inside() -> None:
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    backend = opened(layer, {"src": np.ones((1, 3, 8), np.float32)})
    assert "Attention" in [node.canonical for node in backend.graph().nodes]
    assert len(backend.graph().nodes) > 15


# ---- files


def test_state_dicts_are_loaded_into_what_a_factory_makes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = Small().eval()
    torch.save({"state_dict": other.state_dict()}, tmp_path / "w.pt")
    where = Path(__file__).parents[3] / "fixtures" / "torch_networks.py"
    backend = opened(f"{where}:small", {"x": X}, weights=str(tmp_path / "w.pt"))
    assert np.array_equal(values(backend, {"x": X})[":softmax@0"], other(torch.from_numpy(X)).detach().numpy())
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "bad.pt")
    with pytest.raises(ModelError, match="do not fit"):
        TorchBackend(f"{where}:small", {"weights": str(tmp_path / "bad.pt")})


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere.py:f", "no such file"),
        ("nowhere.py", "which function or class of it makes the network is not said"),
        ("no_such_package_of_ours:f", "cannot be imported"),
        ("{nets}:smal", "did you mean small"),
        ("{nets}:F", "no factory"),
        ("collections:OrderedDict", "not an nn.Module"),
        ("{dir}/weights.pt", "weights without a network"),
        ("{dir}/trt.pth", "torch2trt"),
        ("{dir}/whole.pt", "--trust"),
        ("{dir}/evil.pt", "--trust"),
        ("{dir}/evil.pt2", "--trust"),
        ("{dir}/junk.pt2", "cannot read it"),
        ("{dir}/empty.pt", "cannot read it"),
        ("{dir}/junk.pt", "cannot read it"),
    ],
)
def test_what_is_no_network_is_refused(tmp_path: Path, target: str, says: str) -> None:
    write_bad_files(tmp_path)
    nets = Path(__file__).parents[3] / "fixtures" / "torch_networks.py"
    with pytest.raises((UsageError, ModelError)) as caught:
        TorchBackend(target.format(dir=tmp_path, nets=nets), {})
    assert says in str(caught.value)
    assert not (tmp_path / "PWNED").exists()


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "PWNED"

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def write_bad_files(folder: Path) -> None:
    torch.save(small().state_dict(), folder / "weights.pt")
    engine = {"engine": bytearray(b"ftrt"), "input_names": ["x"], "output_names": ["y"]}
    torch.save(engine, folder / "trt.pth")
    torch.save(small(), folder / "whole.pt")
    torch.save({"w": Evil(folder)}, folder / "evil.pt")
    (folder / "junk.pt2").write_bytes(b"no zip" * 50)
    (folder / "empty.pt").write_bytes(b"")
    (folder / "junk.pt").write_bytes(b"\x08\x07no pickle" * 50)
    good = io.BytesIO()
    torch.export.save(torch.export.export(Function(torch.relu), (torch.zeros(2),)), good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(folder / "evil.pt2", "w") as changed:
        for name in source.namelist():
            sample = "sample_inputs" in name or "example_inputs" in name  # as newer and older versions call it
            changed.writestr(name, (folder / "evil.pt").read_bytes() if sample else source.read(name))


def test_trusted_pickles_are_loaded(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "whole.pt")
    assert opened(str(tmp_path / "whole.pt"), {"x": X}, trust="yes").graph().nodes


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="cannot be had"):
        TorchBackend(small(), {"device": "cuda"})


# ---- end to end


def test_module_against_its_onnx_export_in_a_worker(tmp_path: Path) -> None:
    """As a new user has it: a live module and a file; then a planted fault, with the line it comes from."""
    onnx = pytest.importorskip("onnx")
    model = small()
    torch.onnx.export(model, (torch.from_numpy(X),), str(tmp_path / "m.onnx"), dynamo=False)
    result = diff(model, tmp_path / "m.onnx", (torch.from_numpy(X),))
    assert result.verdict == "aligned"
    assert result.coverage["reference"].unmatched == 0
    proto = onnx.load(tmp_path / "m.onnx")
    pool = next(node for node in proto.graph.node if node.op_type == "AveragePool")
    pool.op_type = "MaxPool"
    del pool.attribute[:]
    pool.attribute.append(onnx.helper.make_attribute("kernel_shape", [2, 2]))
    pool.attribute.append(onnx.helper.make_attribute("strides", [2, 2]))
    onnx.save(proto, tmp_path / "bad.onnx")
    bad = diff(model, tmp_path / "bad.onnx", (torch.from_numpy(X),))
    assert [fault.reference for fault in bad.faults] == [":avg_pool2d@0"]
    assert "torch_networks.py" in bad.faults[0].reference_scope


def test_a_module_of_unknown_input_shape_is_fed_in_the_layout_that_it_takes() -> None:
    conv = nn.Conv2d(3, 4, 3).eval()
    image = np.random.default_rng(0).standard_normal((1, 8, 9, 3)).astype(np.float32)
    last = Function(lambda x: conv(x.permute(0, 3, 1, 2)).relu())
    first = Function(lambda x: conv(x).relu())
    found = diff(last, first, image)
    assert (found.verdict, found.warnings) == ("aligned", ())
    assert "transposed from (1, 8, 9, 3) to (1, 3, 8, 9)" in found.inputs[0]
    assert diff(last, first, image, candidate_inputs=image.transpose(0, 3, 1, 2)).warnings == ()
    with pytest.raises(ModelError, match=r"float32\[1, 9, 9, 2\]"):  # as it was fed first
        diff(Function(lambda x: x.relu()), first, image.repeat(2, 1)[:, :9, :, :2])


def test_padding_is_named_as_the_module_has_it(tmp_path: Path) -> None:
    """A side that cannot be run as a program still says what its pads are."""
    conv = nn.Conv2d(3, 4, 3, stride=2).eval().requires_grad_(False)
    x = torch.from_numpy(X)
    same = Function(lambda x: conv(F.pad(x, (0, 1, 0, 1))).relu())
    torch.onnx.export(same, (x,), str(tmp_path / "same.onnx"), dynamo=False)
    port = Function(lambda x: F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1).relu())
    (fault,) = diff(tmp_path / "same.onnx", port, x).faults
    assert fault.cause is not None
    assert fault.cause.kind == "padding"
    assert "the candidate's Conv pads (1,1), the reference's (0,1)" in fault.cause.summary


def test_live_objects_open_without_a_worker() -> None:
    backend = open_model(small())
    assert isinstance(backend, TorchBackend)
    with pytest.raises(UsageError, match="cannot open a object as a model"):
        open_model(object())


# ---- overrides


class Watched(Mapping[str, Any]):
    """Arrays made whenever they are read; how many there are at a time, at most."""

    def __init__(self, makers: dict[str, Callable[[], Any]]) -> None:
        self.makers, self.alive, self.most = makers, 0, 0

    def __getitem__(self, name: str) -> Any:
        made = self.makers[name]()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(made, self._gone)
        return made

    def _gone(self) -> None:
        self.alive -= 1

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def test_overrides_past_the_bound_are_read_one_at_a_time() -> None:
    backend = opened(small(), {"x": X})
    wanted = {name: array + 1 for name, array in values(backend, {"x": X}).items() if array.dtype == np.float32}
    held = Watched({name: array.copy for name, array in wanted.items()})
    expected = values(backend, {"x": X}, held)
    assert held.most == len(wanted) > 8

    few = Watched({name: array.copy for name, array in wanted.items()})
    backend.bound(0)
    found = values(backend, {"x": X}, few)
    assert few.most <= 2
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with pytest.raises(FeedError, match="override of 'stem:conv2d@0'"):
        backend.run({"x": X}, backend.graph().tappable(), {"stem:conv2d@0": np.zeros(3, np.float32)})
