"""What is kept of many samples, in whichever order they come."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

import aligndbg
from aligndbg.pipeline.merge import Partial, merge, result_of
from samples import document, inputs


@pytest.fixture(scope="module")
def singles(pair: tuple[Path, Path], name: str) -> list[aligndbg.Diff]:
    return [aligndbg.diff(*pair, {name: x}, isolate=False, checks=False) for x in inputs(5)]


def test_the_statistics_are_those_of_the_samples(singles: list[aligndbg.Diff]) -> None:
    found = result_of([Partial.of(k, f"s{k}", diff) for k, diff in enumerate(singles)])
    for i, measured in enumerate(found.pairs):
        errors = [diff.pairs[i].metrics.rel_l2 for diff in singles]
        assert measured.samples is not None
        assert (measured.samples["count"], measured.samples["of"]) == (5, 5)
        assert measured.samples["rel_l2_worst"] == max(errors)
        assert measured.samples["rel_l2_median"] == np.median(errors)
        assert measured.samples["rel_l2_p90"] == np.quantile(errors, 0.9)
        worst = int(measured.samples["worst_sample"])
        assert measured.metrics == singles[worst].pairs[i].metrics
    assert [row["name"] for row in found.samples] == ["s0", "s1", "s2", "s3", "s4"]
    assert [row["verdict"] for row in found.samples] == [diff.verdict for diff in singles]


def test_merging_in_any_order_and_grouping_gives_the_same(singles: list[aligndbg.Diff]) -> None:
    partials = [Partial.of(k, f"s{k}", diff) for k, diff in enumerate(singles)]
    serial = document(result_of(partials))
    for seed in range(5):
        shuffled = random.Random(seed).sample(partials, len(partials))
        cut = seed % 4 + 1
        grouped = [reduce(merge, shuffled[:cut]), reduce(merge, shuffled[cut:])]
        assert document(result_of(grouped)) == serial


def test_nan_is_the_worst_and_is_counted(singles: list[aligndbg.Diff]) -> None:
    first = singles[1].pairs[0]
    broken = replace(first, metrics=replace(first.metrics, rel_l2=float("nan")))
    second = replace(singles[1], pairs=(broken, *singles[1].pairs[1:]))
    found = result_of([Partial.of(0, "a", singles[0]), Partial.of(1, "b", second)]).pairs[0]
    assert found.samples is not None
    assert (found.samples["worst_name"], found.samples["rel_l2_undefined"]) == ("b", 1)
    assert found.samples["rel_l2_worst"] == singles[0].pairs[0].metrics.rel_l2
