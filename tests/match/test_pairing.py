"""Matching, on networks of Python functions whose every value and order is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import aligndbg
from aligndbg.backends.memory import MemoryBackend, MemoryNode
from aligndbg.core.errors import UsageError
from aligndbg.core.types import Layout, LayoutKind, Matching, Node, TensorInfo, Trace
from aligndbg.match.pairing import match, pair_by_value
from aligndbg.measure.fingerprint import Fingerprint, fingerprint
from aligndbg.trace.capture import capture

Array = np.ndarray[Any, np.dtype[Any]]
FIRST, LAST = (1, 3, 6, 5), (1, 6, 5, 3)  # channels first, channels last
TO_LAST = (0, 2, 3, 1)
FEED = Layout(LayoutKind.PERMUTE, LAST, (0, 3, 1, 2), FIRST, LAST)
RNG = np.random.default_rng(11)
IMAGE = RNG.normal(size=FIRST).astype(np.float32)
KERNEL = {n: np.random.default_rng(k).normal(size=(4, 3)).astype(np.float32) for k, n in enumerate("abc")}
SQUARE = {n: np.random.default_rng(9 + k).normal(size=(4, 4)).astype(np.float32) for k, n in enumerate("abc")}


def op(canonical: str, fn: Callable[..., Any], inputs: str, output: str, **more: Any) -> MemoryNode:
    """One node; `inputs` are separated by spaces."""
    return MemoryNode(canonical, fn, tuple(inputs.split()), (output,), name=f"{output}.node", **more)


def conv(kernel: Array, axis: int) -> Callable[[Array], Array]:
    """A 1 x 1 convolution over the channels at `axis`."""

    def run(x: Array) -> Array:
        return np.moveaxis(np.tensordot(kernel, x, (1, axis)), 0, axis)

    return run


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def trace(model: MemoryBackend, feeds: Mapping[str, Array]) -> tuple[Trace, dict[str, Fingerprint]]:
    prints: dict[str, Fingerprint] = {}

    def observe(name: str, value: Array) -> None:
        if value.dtype.kind == "f":
            prints[name] = fingerprint(value)

    return capture(model, feeds, observe=observe), prints


def pair_up(
    reference: MemoryBackend,
    candidate: MemoryBackend,
    feeds: Mapping[str, Array] | None = None,
    others: Mapping[str, Array] | None = None,
    *,
    user: Mapping[str, str] | None = None,
    reject: frozenset[tuple[str, str]] = frozenset(),
    inputs: tuple[tuple[str, str, Layout], ...] = (("x", "x", FEED),),
) -> Matching:
    """Both on the same image: the reference channels first, the candidate channels last."""
    left, left_prints = trace(reference, feeds or {"x": IMAGE})
    right, right_prints = trace(candidate, others or {"x": np.ascontiguousarray(IMAGE.transpose(TO_LAST))})
    return match(*pair_by_value(left, right, left_prints, right_prints, inputs=inputs, user=user, reject=reject))


def first(*nodes: MemoryNode, outputs: str = "y") -> MemoryBackend:
    return MemoryBackend(inputs={"x": FIRST}, nodes=nodes, outputs=outputs.split(), name="reference")


def last(*nodes: MemoryNode, outputs: str = "y2") -> MemoryBackend:
    return MemoryBackend(inputs={"x": LAST}, nodes=nodes, outputs=outputs.split(), name="candidate")


def names(matching: Matching) -> dict[str, str]:
    return {p.reference: p.candidate for p in matching.pairs}


def classes(matching: Matching) -> tuple[dict[str, str], dict[str, str]]:
    return tuple(  # type: ignore[return-value]
        {u.name: str(u.kind) for u in side} for side in (matching.unmatched_reference, matching.unmatched_candidate)
    )


def check_counts(matching: Matching, reference: int, candidate: int) -> None:
    """Every node output is in exactly one place."""
    for coverage, total, left, skipped in (
        (matching.coverage_reference, reference, matching.unmatched_reference, matching.skipped_reference),
        (matching.coverage_candidate, candidate, matching.unmatched_candidate, matching.skipped_candidate),
    ):
        assert coverage.compared == len(matching.pairs)
        assert coverage.unobservable + coverage.one_sided + coverage.unmatched == len(left)
        assert coverage.compared + len(left) + len(skipped) == total
        assert all(u.reason for u in left)


# --- by value ------------------------------------------------------------------------------------------------------


def test_a_fused_activation_pairs_at_the_activation() -> None:
    reference = first(
        op("Conv", conv(KERNEL["a"], 1), "x", "c"),
        op("Relu", relu, "c", "r"),
        op("Conv", conv(SQUARE["a"], 1), "r", "y"),
    )
    candidate = last(
        op("Conv", lambda x: relu(conv(KERNEL["a"], 3)(x)), "x", "fused", attributes={"fused_activation": "Relu"}),
        op("Conv", conv(SQUARE["a"], 3), "fused", "y2"),
    )
    found = pair_up(reference, candidate)
    assert names(found) == {"r": "fused", "y": "y2"}
    assert classes(found) == ({"c": "unobservable"}, {})
    assert {p.method for p in found.pairs} == {"value"}
    assert all(p.layout.permutation == (0, 3, 1, 2) for p in found.pairs)
    check_counts(found, 3, 2)


def test_a_chain_of_folded_ops_is_unobservable_inside() -> None:
    """Conv, BatchNormalization, Relu against one op."""
    scale = np.linspace(0.5, 1.5, 4, dtype=np.float32)
    shape = (1, 4, 1, 1)
    reference = first(
        op("Conv", conv(KERNEL["a"], 1), "x", "c"),
        op("BatchNormalization", lambda c: c * scale.reshape(shape) + 0.1, "c", "b"),
        op("Relu", relu, "b", "y"),
    )
    candidate = last(op("Conv", lambda x: relu(conv(KERNEL["a"] * scale[:, None], 3)(x) + 0.1), "x", "y2"))
    found = pair_up(reference, candidate)
    assert names(found) == {"y": "y2"}
    assert classes(found)[0] == {"c": "unobservable", "b": "unobservable"}
    check_counts(found, 3, 1)


def test_helpers_of_one_side_are_one_sided() -> None:
    """The candidate transposes to channels first and back, and pads apart from the convolution."""
    margin = ((0, 0), (0, 0), (1, 1), (1, 1))
    reference = first(
        op("Conv", lambda x: np.pad(conv(KERNEL["a"], 1)(x), margin), "x", "c"),
        op("Relu", relu, "c", "y"),
    )
    candidate = last(
        op("Transpose", lambda x: x.transpose(0, 3, 1, 2), "x", "moved"),
        op("Pad", lambda x: np.pad(x, margin), "moved", "padded"),
        op("Conv", conv(KERNEL["a"], 1), "padded", "c2"),
        op("Transpose", lambda x: x.transpose(TO_LAST), "c2", "back"),
        op("Relu", relu, "back", "y2"),
    )
    found = pair_up(reference, candidate)
    pairs = names(found)
    assert pairs["y"] == "y2"
    assert pairs["c"] in ("c2", "back")
    left = classes(found)[1]
    assert left == {"moved": "one_sided", "padded": "one_sided", ({"c2", "back"} - {pairs["c"]}).pop(): "one_sided"}
    check_counts(found, 2, 5)


def test_a_helper_whose_values_are_not_its_inputs_is_no_helper() -> None:
    """Called Transpose, but it changes a value: one-sided would be a lie."""

    def spoil(x: Array) -> Array:
        out = x.transpose(0, 3, 1, 2).copy()
        out[0, 0, 0, :] += 3
        return out

    reference = first(op("Conv", conv(KERNEL["a"], 1), "x", "y"))
    candidate = last(op("Transpose", spoil, "x", "moved"), op("Conv", conv(KERNEL["a"], 1), "moved", "y2"))
    found = pair_up(reference, candidate)
    assert classes(found)[1].get("moved") == "unobservable"


def test_a_reshape_chain_of_equal_tensors_pairs_one_to_one() -> None:
    """Four tensors with the same values on each side: positions in the graph tell which is which."""
    reference = first(
        op("Conv", conv(KERNEL["a"], 1), "x", "c"),
        op("Reshape", lambda c: c.reshape(1, 4, 30), "c", "r1"),
        op("Reshape", lambda r: r.reshape(4, 30), "r1", "r2"),
        op("Identity", lambda r: r + 0, "r2", "r3"),
        op("Tanh", np.tanh, "r3", "y"),
    )
    candidate = MemoryBackend(
        inputs={"x": FIRST},
        nodes=[
            op("Conv", conv(KERNEL["a"], 1), "x", "d"),
            op("Reshape", lambda c: c.reshape(1, 4, 30), "d", "s1"),
            op("Reshape", lambda r: r.reshape(4, 30), "s1", "s2"),
            op("Identity", lambda r: r + 0, "s2", "s3"),
            op("Tanh", np.tanh, "s3", "y2"),
        ],
        outputs=["y2"],
    )
    same = Layout(LayoutKind.IDENTITY, FIRST, (0, 1, 2, 3), FIRST, FIRST)
    found = pair_up(reference, candidate, others={"x": IMAGE}, inputs=(("x", "x", same),))
    assert names(found) == {"c": "d", "r1": "s1", "r2": "s2", "r3": "s3", "y": "y2"}
    check_counts(found, 5, 5)


def test_a_shorter_chain_leaves_the_extra_reshapes_one_sided() -> None:
    reference = first(
        op("Conv", conv(KERNEL["a"], 1), "x", "c"),
        op("Reshape", lambda c: c.reshape(1, 4, 30), "c", "r1"),
        op("Reshape", lambda r: r.reshape(4, 30), "r1", "r2"),
        op("Tanh", np.tanh, "r2", "y"),
    )
    candidate = last(op("Conv", conv(KERNEL["a"], 3), "x", "d"), op("Tanh", np.tanh, "d", "y2"))
    found = pair_up(reference, candidate)
    assert names(found) == {"c": "d", "y": "y2"}
    assert classes(found) == ({"r1": "one_sided", "r2": "one_sided"}, {})


def test_two_branches_of_one_shape_are_told_apart() -> None:
    """Same ops, same shapes, other weights; and the candidate runs them in the other order."""
    heads = [
        op("Conv", conv(KERNEL["a"], 1), "x", "left"),
        op("Relu", relu, "left", "left.relu"),
        op("Conv", conv(KERNEL["b"], 1), "x", "right"),
        op("Relu", relu, "right", "right.relu"),
        op("Concat", lambda a, b: np.concatenate([a, b], 1), "left.relu right.relu", "y"),
    ]
    swapped = [
        op("Conv", conv(KERNEL["b"], 3), "x", "p"),
        op("Conv", conv(KERNEL["a"], 3), "x", "q"),
        op("Relu", relu, "p", "p.relu"),
        op("Relu", relu, "q", "q.relu"),
        op("Concat", lambda b, a: np.concatenate([a, b], 3), "p.relu q.relu", "y2"),
    ]
    found = pair_up(first(*heads), last(*swapped))
    assert names(found) == {"left": "q", "left.relu": "q.relu", "right": "p", "right.relu": "p.relu", "y": "y2"}


def test_outputs_in_another_order_pair_by_value() -> None:
    nodes = [("a", "one"), ("b", "two"), ("c", "three")]
    reference = first(*(op("Conv", conv(KERNEL[k], 1), "x", n) for k, n in nodes), outputs="one two three")
    candidate = last(
        *(op("Conv", conv(KERNEL[k], 3), "x", f"out:{i}") for i, (k, _) in enumerate(reversed(nodes))),
        outputs="out:0 out:1 out:2",
    )
    assert names(pair_up(reference, candidate)) == {"one": "out:2", "two": "out:1", "three": "out:0"}


def test_misleading_names_lose_against_values() -> None:
    reference = first(
        op("Conv", conv(KERNEL["a"], 1), "x", "alpha"),
        op("Conv", conv(KERNEL["b"], 1), "x", "beta"),
        outputs="alpha beta",
    )
    candidate = last(
        op("Conv", conv(KERNEL["b"], 3), "x", "alpha"),
        op("Conv", conv(KERNEL["a"], 3), "x", "beta"),
        outputs="alpha beta",
    )
    assert names(pair_up(reference, candidate)) == {"alpha": "beta", "beta": "alpha"}


def test_nearly_equal_tensors_take_the_nearer_one() -> None:
    """A dropout-like copy that differs by rounding noise must not steal the pair."""
    noise = RNG.normal(size=(1, 4, 6, 5)).astype(np.float32) * 1e-4
    reference = first(op("Conv", conv(KERNEL["a"], 1), "x", "c"), op("Add", lambda c: c + noise, "c", "y"))
    candidate = last(
        op("Conv", conv(KERNEL["a"], 3), "x", "d"),
        op("Add", lambda d: d + noise.transpose(TO_LAST), "d", "y2"),
    )
    assert names(pair_up(reference, candidate)) == {"c": "d", "y": "y2"}


# --- layouts -------------------------------------------------------------------------------------------------------


def cube(*nodes: MemoryNode, outputs: str) -> MemoryBackend:
    return MemoryBackend(inputs={"x": (1, 4, 4, 4)}, nodes=nodes, outputs=outputs.split())


def test_equal_axes_are_settled_by_value() -> None:
    """C == H == W, channels first against channels last."""
    x = RNG.normal(size=(1, 4, 4, 4)).astype(np.float32)
    reference = cube(op("Conv", conv(SQUARE["a"], 1), "x", "c"), op("Tanh", np.tanh, "c", "y"), outputs="y")
    candidate = cube(op("Conv", conv(SQUARE["a"], 3), "x", "d"), op("Tanh", np.tanh, "d", "y2"), outputs="y2")
    feed = Layout(LayoutKind.PERMUTE, (1, 4, 4, 4), (0, 3, 1, 2), (1, 4, 4, 4), (1, 4, 4, 4))
    moved = np.ascontiguousarray(x.transpose(TO_LAST))
    found = pair_up(reference, candidate, {"x": x}, {"x": moved}, inputs=(("x", "x", feed),))
    assert names(found) == {"c": "d", "y": "y2"}
    assert [p.layout.permutation for p in found.pairs] == [(0, 3, 1, 2)] * 2


def test_what_values_leave_open_is_settled_by_the_neighbours() -> None:
    """The second tensor is the same along two axes: alone it fits two layouts, its input's layout settles it."""
    x = RNG.normal(size=(1, 4, 4, 4)).astype(np.float32)

    def blur(axes: tuple[int, int]) -> Callable[[Array], Array]:
        return lambda v: np.broadcast_to(v.mean(axes, keepdims=True), v.shape).copy()

    reference = cube(op("Conv", conv(SQUARE["a"], 1), "x", "c"), op("Blur", blur((2, 3)), "c", "y"), outputs="y")
    candidate = cube(op("Conv", conv(SQUARE["a"], 3), "x", "d"), op("Blur", blur((1, 2)), "d", "y2"), outputs="y2")
    feed = Layout(LayoutKind.PERMUTE, (1, 4, 4, 4), (0, 3, 1, 2), (1, 4, 4, 4), (1, 4, 4, 4))
    moved = np.ascontiguousarray(x.transpose(TO_LAST))
    found = pair_up(reference, candidate, {"x": x}, {"x": moved}, inputs=(("x", "x", feed),))
    last_pair = found.pairs[-1]
    assert (last_pair.reference, last_pair.candidate) == ("y", "y2")
    assert last_pair.layout.permutation == (0, 3, 1, 2)
    assert last_pair.layout.kind is LayoutKind.PERMUTE


def test_what_nothing_settles_is_called_ambiguous() -> None:
    """A symmetric matrix computed from an input that is not linked: transposed or not, nobody can say."""
    a = RNG.normal(size=(5, 5)).astype(np.float32)
    symmetric = a + a.T

    def model(name: str) -> MemoryBackend:
        return MemoryBackend(inputs={"x": (5, 5)}, nodes=[op("Gram", lambda x: np.tanh(x), "x", name)], outputs=[name])

    found = pair_up(model("y"), model("y2"), {"x": symmetric}, {"x": symmetric}, inputs=())
    (pair,) = found.pairs
    assert pair.layout.kind is LayoutKind.AMBIGUOUS
    assert {pair.layout.permutation, *pair.layout.alternatives} == {(0, 1), (1, 0)}


@pytest.mark.parametrize("shape", [(1, 120), (4, 30), (30, 1, 4), (1, 4, 1, 30)])
def test_a_tensor_under_another_shape(shape: tuple[int, ...]) -> None:
    reference = first(op("Conv", conv(KERNEL["a"], 1), "x", "y"))
    candidate = last(
        op("Conv", lambda x: conv(KERNEL["a"], 3)(x).transpose(0, 3, 1, 2).reshape(shape), "x", "y2")
        if shape[0] != 30
        else op("Conv", lambda x: conv(KERNEL["a"], 3)(x).reshape(shape), "x", "y2")
    )
    (pair,) = pair_up(reference, candidate).pairs
    right = dict(candidate.run({"x": np.ascontiguousarray(IMAGE.transpose(TO_LAST))}, ["y2"]))["y2"]
    left = dict(reference.run({"x": IMAGE}, ["y"]))["y"]
    assert np.allclose(pair.layout.to_reference(right), left, atol=1e-6)


# --- degenerate tensors --------------------------------------------------------------------------------------------


def test_constant_tensors_do_not_pair_by_value() -> None:
    """Two dead activations of one shape: their values say nothing, so values must not pair them."""
    dead = [
        op("Conv", conv(KERNEL["a"], 1), "x", "c"),
        op("Relu", lambda c: relu(c - 100), "c", "zero.one"),
        op("Relu", lambda c: relu(c - 200), "c", "zero.two"),
        op("Add", lambda c, a, b: c + a + b, "c zero.one zero.two", "y"),
    ]
    same = [
        op("Conv", conv(KERNEL["a"], 3), "x", "d"),
        op("Relu", lambda c: relu(c - 200), "d", "p"),
        op("Relu", lambda c: relu(c - 100), "d", "q"),
        op("Add", lambda c, a, b: c + a + b, "d p q", "y2"),
    ]
    found = pair_up(first(*dead), last(*same))
    pairs = {p.reference: p for p in found.pairs}
    assert pairs["y"].candidate == "y2"
    for name in ("zero.one", "zero.two"):
        assert name not in pairs or pairs[name].method != "value"
    check_counts(found, 4, 4)


def test_empty_and_integer_and_shape_only_tensors() -> None:
    def model(axis: int) -> list[MemoryNode]:
        return [
            op("Conv", conv(KERNEL["a"], axis), "x", "c"),
            op("Shape", lambda c: np.array(c.shape), "c", "shape"),
            op("Cast", lambda s: s.astype(np.float32), "shape", "sizes"),
            op("Slice", lambda c: c[:0], "c", "empty"),
            op("ArgMax", lambda c: c.argmax(axis), "c", "best"),
            op("Tanh", np.tanh, "c", "y"),
        ]

    found = pair_up(first(*model(1)), last(*model(3), outputs="y"))
    assert {"c": "c", "y": "y"}.items() <= names(found).items()
    reasons = {s.name: s.reason for s in found.skipped_reference}
    assert reasons == {
        "shape": "int64 values",
        "best": "int64 values",
        "sizes": "depends on shapes and constants only",
    }
    assert "empty" not in names(found) or dict(zip(names(found), found.pairs, strict=True))["empty"].method != "value"
    check_counts(found, 6, 6)


def test_what_no_output_is_computed_from_is_compared_where_both_have_it() -> None:
    """A converter drops it: nothing is missing then."""

    def model(axis: int, *more: MemoryNode) -> list[MemoryNode]:
        return [op("Conv", conv(KERNEL["a"], axis), "x", "c"), *more, op("Tanh", np.tanh, "c", "y")]

    dead = [op("Sin", np.sin, "c", "state"), op("Mul", lambda a: 2 * a, "state", "twice")]
    both = pair_up(first(*model(1, *dead)), last(*model(3, *dead), outputs="y"))
    assert names(both).keys() == {"c", "state", "twice", "y"}
    lost = pair_up(first(*model(1, *dead)), last(*model(3), outputs="y"))
    assert classes(lost)[0] == {"state": "unobservable", "twice": "unobservable"}


def test_nonfinite_tensors_pair_where_their_finite_values_do() -> None:
    def logarithm(axis: int) -> Callable[[Array], Array]:
        def run(x: Array) -> Array:
            with np.errstate(all="ignore"):
                return np.log(conv(KERNEL["a"], axis)(x))

        return run

    found = pair_up(
        first(op("Log", logarithm(1), "x", "l"), op("Tanh", np.tanh, "l", "y")),
        last(op("Log", logarithm(3), "x", "l2"), op("Tanh", np.tanh, "l2", "y2")),
    )
    assert names(found) == {"l": "l2", "y": "y2"}


def test_no_counterpart_at_all() -> None:
    reference = first(op("Conv", conv(KERNEL["a"], 1), "x", "y"))
    candidate = last(op("Sum", lambda x: x.sum((1, 2)), "x", "y2"))
    found = pair_up(reference, candidate)
    assert found.pairs == ()
    assert classes(found) == ({"y": "unmatched"}, {"y2": "unmatched"})
    assert "no tensor of 120 elements" in found.unmatched_reference[0].reason
    check_counts(found, 1, 1)


# --- what values leave ------------------------------------------------------------------------------------------------


def deep(axis: int, tag: str, fault: float = 0.0, order: str = "abc") -> list[MemoryNode]:
    """stem -> three heads of one shape -> joined; `fault` is added to the stem, so every value after it differs."""
    heads = {
        name: [
            op("Conv", conv(SQUARE[name], axis), f"stem{tag}", f"head.{name}{tag}"),
            op("Relu", relu, f"head.{name}{tag}", f"relu.{name}{tag}"),
        ]
        for name in "abc"
    }
    shift = np.zeros(4, np.float32)
    shift[1] = fault
    bias = shift.reshape([4 if i == axis else 1 for i in range(4)])
    return [
        op("Conv", lambda x: conv(KERNEL["a"], axis)(x) + bias, "x", f"stem{tag}"),
        *(node for name in order for node in heads[name]),
        op(
            "Concat",
            lambda a, b, c: np.concatenate([a, b, c], axis),
            " ".join(f"relu.{n}{tag}" for n in "abc"),
            f"y{tag}",
        ),
    ]


@pytest.mark.parametrize("order", ["abc", "cab", "bca"])
def test_diverged_branches_that_look_alike_never_pair_crosswise(order: str) -> None:
    """All values after the stem differ. What is paired must be right; what is not must be listed."""
    found = aligndbg.diff(first(*deep(1, "")), last(*deep(3, "2", fault=2.0, order=order)), {"x": IMAGE}).matching
    assert names(found)["stem"] == "stem2"
    assert names(found)["y"] == "y2"
    assert all(c == f"{r}2" for r, c in names(found).items())
    check_counts(found, 8, 8)


def test_outputs_are_paired_even_where_nothing_before_them_could_be() -> None:
    reference = first(op("Sort", lambda x: np.sort(x.ravel())[:12] * 3, "x", "one"), op("Exp", np.exp, "one", "y"))
    candidate = last(
        op("Other", lambda x: np.cumsum(x.ravel()[:12]), "x", "two"), op("Log1p", lambda t: t**2, "two", "y2")
    )
    found = pair_up(reference, candidate, inputs=())
    assert names(found).get("y") == "y2"
    assert {p.method for p in found.pairs if p.reference == "y"} <= {"output"}


def test_without_a_graph_names_propose_and_values_must_agree() -> None:
    """A trace of arrays only, diverged: like names pair where the values are near, and nowhere else."""
    x, noise = RNG.normal(size=(3, 40)), RNG.normal(size=(3, 40)) * 0.05
    values = {"conv_1": x[0], "conv_2": x[1], "gap": x[2]}
    others = {"conv_1_Conv": x[0] + noise[0], "conv_2_Conv": x[1] + noise[1], "gap_Mean": -x[2]}

    def bare(arrays: Mapping[str, Array]) -> tuple[Trace, dict[str, Fingerprint]]:
        from aligndbg.core.types import Graph, ModelInfo

        tensors = {n: TensorInfo(n, a.shape, str(a.dtype)) for n, a in arrays.items()}
        made = Trace(ModelInfo("t.npz", "recorded"), Graph(tensors=tensors), dict(arrays), None, tuple(arrays))
        return made, {n: fingerprint(a) for n, a in arrays.items()}

    (left, left_prints), (right, right_prints) = bare(values), bare(others)
    found = match(*pair_by_value(left, right, left_prints, right_prints))
    assert names(found) == {"conv_1": "conv_1_Conv", "conv_2": "conv_2_Conv"}
    assert {p.method for p in found.pairs} == {"name"}
    assert classes(found) == ({"gap": "unmatched"}, {"gap_Mean": "unmatched"})


# --- outputs beside the pairs ---------------------------------------------------------------------------------------


def again(found: Matching) -> list[tuple[str, str, str]]:
    return [(p.reference, p.candidate, p.evidence) for p in found.again]


NAMESAKES = "an output of this name on both sides"


def test_an_output_that_equals_a_paired_tensor_is_compared_with_it() -> None:
    """The candidate gives its state twice: as it is computed, and with a zero added."""
    reference = first(op("Conv", conv(KERNEL["a"], 1), "x", "s"), op("Exp", np.exp, "s", "y"))
    candidate = last(
        op("Conv", conv(KERNEL["a"], 3), "x", "s2"),
        op("Exp", np.exp, "s2", "y2"),
        op("Add", lambda s: s + 0.0, "s2", "state"),
        outputs="y2 state",
    )
    found = pair_up(reference, candidate)
    assert names(found) == {"s": "s2", "y": "y2"}
    assert [pair[:2] for pair in again(found)] == [("s", "state")]
    assert found.again[0].layout.permutation == (0, 3, 1, 2)
    assert classes(found) == ({}, {})
    assert (found.coverage_reference.compared, found.coverage_candidate.compared) == (2, 3)


def test_outputs_of_one_name_are_compared_whatever_values_pair_them_with() -> None:
    """The reference decodes its boxes, the candidate gives them raw."""
    raw = conv(KERNEL["a"], 1)
    reference = first(
        op("Conv", raw, "x", "raw"), op("Exp", np.exp, "raw", "e"), op("Neg", np.negative, "e", "n"),
        op("Relu", lambda t: t + 1, "n", "boxes"), outputs="boxes",
    )  # fmt: skip
    candidate = last(op("Conv", conv(KERNEL["a"], 3), "x", "boxes"), outputs="boxes")
    found = pair_up(reference, candidate)
    assert names(found) == {"raw": "boxes"}
    assert again(found) == [("boxes", "boxes", NAMESAKES)]
    assert "boxes" not in classes(found)[0]


def test_exchanged_outputs_are_compared_by_name_where_their_order_is_the_same() -> None:
    reference = first(*(op("Conv", conv(KERNEL[k], 1), "x", k) for k in "ab"), outputs="a b")
    candidate = last(
        op("Conv", conv(KERNEL["a"], 3), "x", "b"), op("Conv", conv(KERNEL["b"], 3), "x", "a"), outputs="a b"
    )
    found = pair_up(reference, candidate)
    assert names(found) == {"a": "b", "b": "a"}
    assert again(found) == [("a", "a", NAMESAKES), ("b", "b", NAMESAKES)]


def test_a_name_that_two_outputs_share_by_chance_is_said() -> None:
    """Numbers for names: 7 here is not 7 there, which value and order agree on."""
    reference = first(*(op("Conv", conv(KERNEL[k], 1), "x", n) for k, n in ("a6", "b7")), outputs="6 7")
    candidate = last(*(op("Conv", conv(KERNEL[k], 3), "x", n) for k, n in ("a7", "b8")), outputs="7 8")
    found = pair_up(reference, candidate)
    assert names(found) == {"6": "7", "7": "8"}
    assert found.again == ()
    assert found.notes == (
        "the outputs called '7' were not compared with each other: by value and by place '7' of the reference is '8' "
        "of the candidate",
    )


def test_outputs_of_one_name_and_unlike_sizes_say_so() -> None:
    reference = first(op("Conv", conv(KERNEL["a"], 1), "x", "y"), outputs="y")
    candidate = last(op("Sum", lambda x: x.sum((1, 2)), "x", "y"), outputs="y")
    found = pair_up(reference, candidate)
    assert found.unmatched_reference[0].reason == (
        "an output of this name on both sides, but 1 x 4 x 6 x 5 here and 1 x 3 there"
    )


@pytest.mark.parametrize("recorded", ["reference", "candidate"])
def test_a_recording_without_a_graph_is_compared_at_the_outputs_by_name(recorded: str) -> None:
    """Whatever the values, and where every element is the same."""
    from aligndbg.core.types import Graph

    def model(sign: float) -> MemoryBackend:
        return first(
            op("Conv", conv(KERNEL["a"], 1), "x", "a"), op("Sin", lambda a: np.sin(9 * sign * a + sign), "a", "y"),
            op("Sum", np.sum, "y", "total"), outputs="y total",
        )  # fmt: skip

    (left, left_prints), (right, right_prints) = (trace(model(sign), {"x": IMAGE}) for sign in (1, -3))
    bare = left if recorded == "reference" else right
    bare = replace(bare, graph=Graph(tensors=bare.graph.tensors))
    sides = (bare, right) if recorded == "reference" else (left, bare)
    found = match(*pair_by_value(*sides, left_prints, right_prints))
    assert {p.reference: p.method for p in found.pairs} == {"a": "value", "y": "output", "total": "output"}


# --- the user's word, and what is settled --------------------------------------------------------------------------


def test_map_wins_over_values() -> None:
    reference = first(
        op("Conv", conv(KERNEL["a"], 1), "x", "a"), op("Conv", conv(KERNEL["b"], 1), "x", "b"), outputs="a b"
    )
    candidate = last(
        op("Conv", conv(KERNEL["a"], 3), "x", "a2"), op("Conv", conv(KERNEL["b"], 3), "x", "b2"), outputs="a2 b2"
    )
    found = pair_up(reference, candidate, user={"a": "b2"})
    assert names(found)["a"] == "b2"
    forced = next(p for p in found.pairs if p.reference == "a")
    assert (forced.method, forced.confidence) == ("user", 1.0)
    assert names(found).get("b") != "b2"


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"nothing": "y2"}, ("reference", "nothing")),
        ({"y": "y3"}, ("candidate", "y3", "y2")),
        ({"y": "small"}, ("elements",)),
        ({"y": "shape"}, ("shape", "int64")),
        ({"y": "y2", "c": "y2"}, ("y2",)),
    ],
    ids=["reference", "candidate", "size", "integers", "twice"],
)
def test_map_that_cannot_be(user: dict[str, str], words: tuple[str, ...]) -> None:
    reference = first(op("Conv", conv(KERNEL["a"], 1), "x", "c"), op("Tanh", np.tanh, "c", "y"))
    candidate = last(
        op("Conv", conv(KERNEL["a"], 3), "x", "y2"),
        op("Sum", lambda y: y.sum((1, 2)), "y2", "small"),
        op("Shape", lambda y: np.array(y.shape), "y2", "shape"),
    )
    with pytest.raises(UsageError) as caught:
        pair_up(reference, candidate, user=user)
    assert all(word in str(caught.value) for word in words)
    assert caught.value.hint


def test_refuted_pairs_are_not_made_again() -> None:
    reference = first(op("Conv", conv(KERNEL["a"], 1), "x", "c"), op("Tanh", np.tanh, "c", "y"))
    candidate = last(op("Conv", conv(KERNEL["a"], 3), "x", "d"), op("Tanh", np.tanh, "d", "y2"))
    assert "c" not in names(pair_up(reference, candidate, reject=frozenset({("c", "d")})))


# --- invariants ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_in_random_order(seed: int) -> None:
    """A random DAG of ops, run channels first in one topological order and channels last in another."""
    rng = np.random.default_rng(seed)
    unary: dict[str, Callable[[Array], Array]] = {
        "Tanh": np.tanh,
        "Sin": np.sin,
        "Softsign": lambda v: v / (1 + abs(v)),
    }
    plan: list[tuple[str, tuple[int, ...], Array]] = [("Conv", (), rng.normal(size=(4, 3)))]
    for k in range(1, 24):
        kind = rng.choice(["Conv", "Add", *unary])
        count = 2 if kind == "Add" else 1
        plan.append((kind, tuple(rng.integers(0, k, count).tolist()), rng.normal(size=(4, 4)) * 0.7))

    def build(axis: int, tag: str, order: list[int]) -> MemoryBackend:
        nodes = []
        for k in order:
            kind, sources, kernel = plan[k]
            inputs = " ".join(f"{tag}{i}" for i in sources) or "x"
            fn = conv(kernel.astype(np.float32), axis) if kind == "Conv" else unary.get(kind, lambda a, b: a + b)
            nodes.append(op(kind, fn, inputs, f"{tag}{k}"))
        read = {i for _, sources, _ in plan for i in sources}
        return MemoryBackend(
            inputs={"x": FIRST if axis == 1 else LAST},
            nodes=nodes,
            outputs=[f"{tag}{k}" for k in range(len(plan)) if k not in read],
        )

    def shuffled() -> list[int]:
        left, done = set(range(len(plan))), []
        while left:
            ready = [k for k in sorted(left) if not set(plan[k][1]) & left]
            done.append(int(rng.choice(ready)))
            left.remove(done[-1])
        return done

    found = pair_up(build(1, "r", list(range(len(plan)))), build(3, "c", shuffled()))
    duplicates = len(plan) - len(
        {(kind, sources) if kind != "Conv" else k for k, (kind, sources, _) in enumerate(plan)}
    )
    wrong = [p for p in found.pairs if p.reference[1:] != p.candidate[1:]]
    assert len(found.pairs) == len(plan)
    assert len(wrong) <= 2 * duplicates  # the same op on the same tensor twice: nothing tells the two apart
    check_counts(found, len(plan), len(plan))


def test_a_node_may_have_several_outputs() -> None:
    def split(axis: int, tag: str) -> MemoryNode:
        return MemoryNode(
            "Split", lambda c: np.split(c, 2, axis), (f"c{tag}",), (f"one{tag}", f"two{tag}"), name="split"
        )

    found = pair_up(
        first(op("Conv", conv(KERNEL["a"], 1), "x", "c"), split(1, ""), op("Mul", np.multiply, "one two", "y")),
        last(op("Conv", conv(KERNEL["a"], 3), "x", "c2"), split(3, "2"), op("Mul", np.multiply, "one2 two2", "y2")),
    )
    assert names(found) == {"c": "c2", "one": "one2", "two": "two2", "y": "y2"}


def test_ops_keep_their_runtimes_own_words() -> None:
    """`Node.canonical` joins them; the report shows what the runtime says."""
    node = Node("CONV_2D", "n", ("x",), ("y",), {"fused_activation": "Relu"}, canonical="Conv")
    assert (node.op_type, node.canonical, node.tail) == ("CONV_2D", "Conv", "Relu")
    reference = first(op("Conv", conv(KERNEL["a"], 1), "x", "y"))
    candidate = last(
        MemoryNode("CONV_2D", lambda x: conv(KERNEL["b"], 3)(x), ("x",), ("y2",), canonical="Conv"),
        MemoryNode("ABS", np.abs, ("y2",), ("z",), canonical="Abs"),
        outputs="y2",
    )
    found = pair_up(reference, candidate)
    assert names(found) == {"y": "y2"}
