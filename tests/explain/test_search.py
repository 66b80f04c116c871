"""What is told of a cause, and what is not claimed; each kind of cause has its test in hypotheses/."""

from __future__ import annotations

from pathlib import Path

from aligndbg import Verdict
from causes import cause_of, compared, conv
from nets import Net, chain


def test_what_is_told_with_a_cause(tmp_path: Path) -> None:
    good, bad = (conv(pads=pads, strides=[2, 2]) for pads in ([0, 0, 1, 1], [1, 1, 1, 1]))
    cause = cause_of(chain(good, tmp_path / "a.onnx"), chain(bad, tmp_path / "b.onnx"))
    assert "pads (1,1), the reference's (0,1)" in cause.summary
    assert cause.details["candidate"] == {"pads": [1, 1, 1, 1]}
    assert cause.details["where"]["candidate"]["tensor"] == "middle"
    assert [o["name"] for o in cause.details["where"]["reference"]["operators"]] == ["n_middle"]
    different = [row for row in cause.details["attributes"] if not row["same"]]
    assert [(row["attribute"], row["reference"], row["candidate"]) for row in different] == [
        ("pads", [0, 0, 1, 1], [1, 1, 1, 1])
    ]
    assert cause.details["change"]


def test_nothing_is_claimed_that_does_not_reduce_the_error(tmp_path: Path) -> None:
    """Two things wrong in one operator: neither alone makes the error vanish."""

    def both(net: Net, x: str) -> str:
        y = net.op("Sin", [x], "s")
        return net.op("Mul", [y, net.op("Cos", [net.op("Exp", [x], "e")], "c")], "middle")

    def neither(net: Net, x: str) -> str:
        return net.op("Mul", [net.op("Cosh", [x], "s"), net.op("Sinh", [net.op("Exp", [x], "e")], "c")], "middle")

    found = compared(chain(both, tmp_path / "a.onnx"), chain(neither, tmp_path / "b.onnx"))
    assert found.verdict is Verdict.DIVERGED
    for fault in found.faults:
        assert fault.cause is not None
        if fault.cause.kind == "unexplained":
            assert fault.cause.after is None
            assert fault.cause.details["tried"]
        else:
            assert fault.cause.after is not None
            assert fault.cause.after <= 0.2 * (fault.cause.before or 0)
