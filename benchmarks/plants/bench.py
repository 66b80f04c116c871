"""One trial: plant faults into one file of a pair, diff the two, and see which faults were found."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import aligndbg
from plants import Array, NotHere, Plant, Plantable, effect, open_plantable, plant
from plants.feeds import feeds_of, translated

__all__ = ["Bench", "Finding", "PairOfModels", "Trial"]

SOLID, SOLID_LSB = 1e-3, 2.0  # what a plant moves its own tensor by when missing it misses the bar
HIDDEN = 1e-4
MASKED = 1e-6  # relative move of the outputs: less is rounding
FEW_NODES = 6
HOW = ("exact", "fused", "region", "wide", "absent", "missed")  # best first; the first three are located


@dataclass(frozen=True)
class PairOfModels:
    """Two builds of one network. `npz`: an input, in the layout of the file that `npz_of` names."""

    reference: str
    candidate: str
    npz: str = ""
    int8: bool = False

    def __str__(self) -> str:
        return f"{self.reference} : {self.candidate}"


@dataclass
class Finding:
    """What became of one plant.

    `how`: exact, fused (at its counterpart, or at another tensor of the group that the clean run cannot tell apart),
    region (in a fault's region of few operators), wide (of many), absent (a region holds the counterpart only), missed.
    `visible`: how far the nearest tensors that both files show move; where that is nothing (a bias under a dead ReLU,
    fused on the other side), no comparison can find it. `fault`: the one that was meant; `cause`: its kind, in words
    `summary`. `felt`: how far the model's outputs move by it (None: not known); where they do not, what follows masks
    it, as a common offset before a softmax, and it may be no fault at all. `not_run`: why a side's region could not be
    computed alone to find the cause, by side; None where none was sought.
    """

    plant: Plant
    how: str
    visible: float
    fault: str = ""
    cause: str = ""
    summary: str = ""
    beside: str = ""
    felt: float | None = None
    not_run: dict[str, str] | None = None

    @property
    def located(self) -> bool:
        return self.how in HOW[:3]

    @property
    def strength(self) -> str:
        lsb = self.plant.unit == "lsb"
        if self.felt is not None and self.felt < MASKED:
            return "masked"
        if self.visible < (1 if lsb else HIDDEN):
            return "hidden"
        return "solid" if min(self.plant.effect, self.visible) >= (SOLID_LSB if lsb else SOLID) else "weak"


@dataclass
class Trial:
    """One diff of a pair with plants in it. `pairing`: the share of the clean run's pairs that is found again."""

    pair: str
    side: str
    seed: int
    findings: list[Finding]
    invented: list[str]
    pairing: float | None
    runs: int | None
    experiments: int | None
    seconds: float
    explaining: float
    verdict: str
    kept: str = ""


@dataclass
class Clean:
    """The pair without a plant: the feeds of both sides, every value, and what is paired."""

    feeds: dict[str, Array]
    values: dict[str, dict[str, Array]]
    pairs: frozenset[tuple[str, str]]
    fed: dict[str, dict[str, Array]] = field(default_factory=dict)
    outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class Bench:
    """Plants and diffs over one folder. `keep`: where planted files stay, None for nowhere."""

    def __init__(self, folder: Path, keep: Path | None) -> None:
        self.folder, self.keep = folder, keep
        self._models: dict[str, Plantable] = {}
        self._clean: dict[tuple[PairOfModels, int], Clean] = {}

    def model(self, name: str) -> Plantable:
        if name not in self._models:
            self._models[name] = open_plantable(self.folder / name)
        return self._models[name]

    def clean(self, pair: PairOfModels, seed: int) -> Clean:
        """Seed 0 is the pair's own input where it has one."""
        if (pair, seed) not in self._clean:
            self._clean = {k: v for k, v in self._clean.items() if k[0] == pair}  # every tensor of both sides: large
            reference, candidate = self.model(pair.reference), self.model(pair.candidate)
            feeds = feeds_of(reference, self.folder / pair.npz if pair.npz else None, seed)
            found = aligndbg.diff(self.folder / pair.reference, self.folder / pair.candidate, feeds, checks=False)
            fed = {"reference": feeds, "candidate": translated(feeds, reference, candidate)}
            self._clean[(pair, seed)] = Clean(
                feeds,
                {"reference": reference.values(fed["reference"]), "candidate": candidate.values(fed["candidate"])},
                frozenset((m.pair.reference, m.pair.candidate) for m in found.pairs),
                fed,
                {"reference": found.graphs[0].outputs, "candidate": found.graphs[1].outputs},
                [_text(f) for f in found.faults],
            )
        return self._clean[(pair, seed)]

    def trial(self, pair: PairOfModels, side: str, faults: int, kinds: Sequence[str], seed: int) -> Trial:
        rng = np.random.default_rng(seed)
        clean = self.clean(pair, int(rng.integers(2)))
        name = pair.reference if side == "reference" else pair.candidate
        model = self.model(name)
        plants: list[Plant] = []
        for _ in range(faults):
            taken = frozenset(p.site.tensor for p in plants)
            model, planted = plant(model, rng, clean.values[side], kinds, taken)
            plants.append(planted)
        if faults > 1:
            plants = _together(self.model(name), model, plants, clean.values[side])
        with tempfile.TemporaryDirectory() as folder:
            path = (self.keep or Path(folder)) / f"{seed}_{side}_{name.replace('/', '_')}"
            model.save(path)
            both = {"reference": self.folder / pair.reference, "candidate": self.folder / pair.candidate, side: path}
            start = time.perf_counter()
            found = aligndbg.diff(both["reference"], both["candidate"], clean.feeds, checks=False)
            seconds = time.perf_counter() - start
        other = self.model(pair.candidate if side == "reference" else pair.reference)
        findings, invented = judge(found, side, model, other, plants, clean)
        _felt(self.model(name), model, findings, side, clean)
        paired = {(m.pair.reference, m.pair.candidate) for m in found.pairs}
        return Trial(
            pair=str(pair),
            side=side,
            seed=seed,
            findings=findings,
            invented=invented,
            pairing=len(paired & clean.pairs) / len(clean.pairs) if clean.pairs else None,
            runs=found.checks.get("isolation_runs"),
            experiments=found.checks.get("experiments"),
            seconds=seconds,
            explaining=found.timing.get("explain", 0.0),
            verdict=str(found.verdict),
            kept=str(path) if self.keep else "",
        )


def _felt(unplanted: Plantable, model: Plantable, findings: Sequence[Finding], side: str, clean: Clean) -> None:
    """Says of each plant how far it moves the outputs: by itself, or among the others where that is less."""
    values = clean.values[side]
    spoilt = model.values(clean.fed[side]) if len(findings) > 1 else {}
    for finding in findings:
        tensor = finding.plant.site.tensor
        alone = _moved(unplanted, tensor, model, values, clean.outputs[side])
        among = _moved(model, tensor, unplanted, spoilt, clean.outputs[side]) if spoilt else None
        finding.felt = min((felt for felt in (alone, among) if felt is not None), default=None)


def _moved(
    model: Plantable, tensor: str, other: Plantable, values: Mapping[str, Array], outputs: Sequence[str]
) -> float | None:
    """How far the outputs of `model`, whose `values` they are, move where `tensor` is what `other` makes of them."""
    below = model.reach(tensor)
    try:
        given = {k: v for k, v in values.items() if k not in below} | {tensor: other.evaluate(tensor, values)}
        after = {o: given[o] if o == tensor else model.evaluate(o, given) for o in outputs if o in below}
        return max((effect(values[o], value)[0] for o, value in after.items()), default=None)
    except NotHere:
        return None


def _together(clean: Plantable, model: Plantable, plants: list[Plant], values: Mapping[str, Array]) -> list[Plant]:
    """The plants with the smaller of two effects: alone, and on what the others before it make of its inputs."""
    spoilt = model.values({name: values[name] for name in model.inputs()})
    out = []
    for p in plants:
        try:
            before = clean.evaluate(p.site.tensor, spoilt)
            moved = effect(before, model.evaluate(p.site.tensor, spoilt))[0]
        except NotHere:
            moved = 0.0
        out.append(replace(p, effect=min(p.effect, moved)))
    return out


def judge(
    found: aligndbg.Diff, side: str, model: Plantable, other: Plantable, plants: Sequence[Plant], clean: Clean
) -> tuple[list[Finding], list[str]]:
    """Which fault is at which plant of `model`, the file on `side`, and the faults that are at none."""
    column = 0 if side == "reference" else 1
    counterparts = {p[1 - column]: p[column] for p in clean.pairs}
    across = {ours: theirs for theirs, ours in counterparts.items()}
    paired = set(across)
    left = list(found.faults)
    findings = []
    for p in plants:
        tensor, node = p.site.tensor, model.op_name(p.site.tensor)
        witnesses = _witnesses(model, tensor, paired)
        # What a fused operator no longer does, such as adding a bias, is an operator that only the other file has.
        absent = other.op_name(across[tensor]) if tensor in across else None
        how, where, cause = "missed", "", None
        for fault in found.faults:
            both = (fault.reference, fault.candidate)
            at = both[column] or counterparts.get(both[1 - column] or "")
            regions = (fault.region_reference.nodes, fault.region_candidate.nodes)
            nodes = regions[column]
            same_group = at is not None and at not in paired and _witnesses(model, at, paired) == witnesses
            if both[column] == tensor:
                match = "exact"
            elif at in witnesses or same_group or both[1 - column] == across.get(tensor):
                match = "fused"
            elif node in nodes:
                match = "region" if len(nodes) <= FEW_NODES else "wide"
            elif absent in regions[1 - column]:
                # An operator that was taken out is only on the other side: there the region tells where.
                removed = p.site.kind == "missing_activation" and len(regions[1 - column]) <= FEW_NODES
                match = "region" if removed else "absent"
            else:
                match = "missed"
            if HOW.index(match) < HOW.index(how):
                how, where = match, f"{_text(fault)}, " + " : ".join("+".join(r) for r in regions)
                cause = fault.cause
            if match != "missed":
                left = [f for f in left if f is not fault]
        visible = _visible(model, p, witnesses, clean.values[side])
        said = (cause.kind, cause.summary) if cause is not None else ("", "")
        not_run = cause.details.get("not_evaluated") if cause is not None else None
        findings.append(Finding(p, how, visible, where, *said, not_run=not_run))
    for finding in findings:
        for fault in left if finding.how == "missed" else ():
            both = (fault.reference, fault.candidate)
            at = both[column] or counterparts.get(both[1 - column] or "")
            if at is not None and _is_next(model, finding.plant.site.tensor, at):
                finding.beside = _text(fault)
    return findings, [_text(f) for f in left]


def _is_next(model: Plantable, a: str, b: str) -> bool:
    """Is one of two tensors computed directly from the other?"""
    return b in model.reach(a).get(a, ()) or a in model.reach(b).get(b, ())


def _witnesses(model: Plantable, tensor: str, paired: set[str]) -> frozenset[str]:
    """The tensor itself where the clean run pairs it, else the nearest ones computed from it that are."""
    if tensor in paired:
        return frozenset({tensor})
    below = model.reach(tensor)
    found: set[str] = set()
    todo, seen = [tensor], {tensor}
    while todo:
        for name in below.get(todo.pop(), ()):
            if name not in seen:
                seen.add(name)
                if name in paired:
                    found.add(name)
                else:
                    todo.append(name)
    return frozenset(found)


def _visible(model: Plantable, plant: Plant, witnesses: frozenset[str], values: Mapping[str, Array]) -> float:
    """How far the nearest tensors that have a pair move, at most; the plant's own effect where that has no measure."""
    tensor = plant.site.tensor
    below = model.reach(tensor)
    above = {k: v for k, v in values.items() if k not in below}
    try:
        return max((effect(values[name], model.evaluate(name, above))[0] for name in witnesses), default=0.0)
    except NotHere:
        return plant.effect


def _text(fault: Any) -> str:
    sides = f"{fault.reference_op} {fault.reference} : {fault.candidate_op} {fault.candidate}"
    return f"{sides} ({fault.isolated_error:.3g} {fault.isolated_unit})"
