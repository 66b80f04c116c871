"""Where one inference is cut into segments of a few nodes each, so that little is held at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Segment", "cut", "share"]


Key = TypeVar("Key", bound=Hashable)  # what names a tensor
SEGMENT_BYTES = 64 << 20  # of values and packed weights that a run with taps holds at a time
LEAST_BYTES = 4 << 20  # of a segment: each costs a session
UNKNOWN = 64  # values of unknown size that are taken for a whole segment


class Segment(NamedTuple, Generic[Key]):
    """`nodes` are places in the graph, ascending; `takes` were computed before, `leaves` are read after."""

    nodes: tuple[int, ...]
    takes: tuple[Key, ...] = ()
    leaves: tuple[Key, ...] = ()


def share(bound: int | None) -> int:
    """The bytes of a segment, fewer where a backend is bound to less."""
    return SEGMENT_BYTES if bound is None else min(SEGMENT_BYTES, max(bound, LEAST_BYTES))


def cut(
    reads: Sequence[Sequence[Key]],
    makes: Sequence[Sequence[Key]],
    sizes: Mapping[Key, int],
    limit: int,
    constants: Collection[Key],
    passable: Callable[[Key], bool],
) -> list[Segment[Key]]:
    """Segments of about `limit` bytes: of what a segment's nodes compute, and of weights and inputs that they read.

    `reads` and `makes` are each node's inputs and outputs, in topological order. No cut separates a value that is not
    `passable` from what reads it. Nodes that compute `constants` are repeated wherever those are read, so that they
    stay constants there.
    """
    last = {name: i for i, names in enumerate(reads) for name in names}
    made = {name: i for i, names in enumerate(makes) for name in names}
    fixed = {name for name in made if name in constants}
    pieces: list[list[int]] = [[]]
    held, seen = 0, set[Key]()
    bound = -1  # the last reader of a value that cannot be passed on
    for i, outputs in enumerate(makes):
        computed = sum(sizes.get(name, limit // UNKNOWN) for name in outputs)
        fresh = {name for name in reads[i] if name not in made}
        cost = computed + sum(sizes.get(name, 0) for name in fresh - seen)
        if pieces[-1] and held + cost > limit and bound < i:
            pieces.append([])
            held, seen = 0, set()
            cost = computed + sum(sizes.get(name, 0) for name in fresh)
        pieces[-1].append(i)
        held += cost
        seen |= fresh
        stuck = (name for name in outputs if name not in fixed and not passable(name))
        bound = max((bound, *(last.get(name, -1) for name in stuck)))
    return [_segment(piece, reads, makes, made, last, fixed) for piece in pieces]


def _segment(
    piece: Sequence[int],
    reads: Sequence[Sequence[Key]],
    makes: Sequence[Sequence[Key]],
    made: Mapping[Key, int],
    last: Mapping[Key, int],
    fixed: Collection[Key],
) -> Segment[Key]:
    nodes, takes = set(piece), dict[Key, None]()
    todo = [name for i in piece for name in reads[i]]
    while todo:
        name = todo.pop()
        maker = made.get(name)
        if maker is None or maker in nodes:
            continue
        if name in fixed:
            nodes.add(maker)
            todo += reads[maker]
        else:
            takes[name] = None
    end = max(piece, default=-1)
    leaves = [n for i in piece for n in makes[i] if last.get(n, -1) > end and n not in fixed]
    return Segment(tuple(sorted(nodes)), tuple(takes), tuple(leaves))
