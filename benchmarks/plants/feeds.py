"""What a pair of models is fed: the reference's inputs, and the same as the candidate takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from plants import Array, Plantable

__all__ = ["feeds_of", "translated"]


def feeds_of(model: Plantable, npz: Path | None, seed: int) -> dict[str, Array]:
    """For seed 0 the arrays of `npz`, moved to the model's layout; else seeded uniform ones in 0..1.

    Integers are words, indices and masks: those of `npz` for every seed.
    """
    rng = np.random.default_rng(seed)
    given = dict(np.load(npz)) if npz else {}
    feeds = {}
    for k, (name, (shape, dtype)) in enumerate(model.inputs().items()):
        if given and (seed == 0 or np.issubdtype(dtype, np.integer)):
            feeds[name] = _moved(given[name] if name in given else list(given.values())[k], shape)
        else:
            feeds[name] = rng.random(shape, np.float32)
        feeds[name] = feeds[name].astype(dtype)
    return feeds


def _moved(value: Array, shape: tuple[int, ...]) -> Array:
    """NCHW to NHWC or back, where only that fits."""
    for moved in (value, *((value.transpose(0, 2, 3, 1), value.transpose(0, 3, 1, 2)) if value.ndim == 4 else ())):
        if moved.shape == shape:
            return np.ascontiguousarray(moved)
    raise ValueError(f"an input of shape {value.shape} for a model that wants {shape}")


def translated(feeds: Mapping[str, Array], reference: Plantable, candidate: Plantable) -> dict[str, Array]:
    """The reference's feeds as the candidate takes them, by name where the names are the same, else in order."""
    theirs = candidate.inputs()
    same = set(theirs) == set(feeds)
    given = dict(zip(theirs, feeds.values(), strict=True))
    return {
        name: candidate.taken(name, _moved(feeds[name] if same else given[name], shape))
        for name, (shape, _) in theirs.items()
    }
