from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aligndbg.match.weights import WeightIndex, WeightPrint

means = st.one_of(st.floats(0.7, 0.9), st.sampled_from([0.0, 0.8, 0.8 * 0.96, 0.8 / 0.96, 0.8 * 0.998, float("nan")]))
ends = st.tuples(means, st.sampled_from([0.9, 0.91]), st.sampled_from([1.0, 1.1]))
prints = st.builds(WeightPrint, st.sampled_from([16, 64]), ends, ends, st.booleans())


@given(st.lists(prints, max_size=8), prints)
def test_an_index_finds_what_a_look_at_each_finds(others: list[WeightPrint], weight: WeightPrint) -> None:
    assert WeightIndex(others).has(weight) == any(weight.agreement(one) == 1 for one in others)
    float_only = [replace(one, quantized=False) for one in others]
    plain = replace(weight, quantized=False)
    assert WeightIndex(float_only).has(plain) == any(plain.agreement(one) == 1 for one in float_only)
