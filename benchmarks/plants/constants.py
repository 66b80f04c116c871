"""How weights and other constants are spoilt: the arithmetic that both formats share."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from plants import Array, NotHere

__all__ = ["change_channel", "change_vector", "round_weights", "swapped_axes"]


def change_channel(weight: Array, axis: int, rng: np.random.Generator, amount: float) -> tuple[Array, str]:
    """One channel scaled, or its weights shuffled; `amount` is the change of the whole that is aimed at."""
    channels = weight.shape[axis]
    channel = int(rng.integers(channels))
    out = np.moveaxis(weight.copy(), axis, 0)  # a view: writing to it writes to the copy
    if rng.random() < 0.3 and out[channel].size > 1:
        out[channel] = rng.permutation(out[channel].reshape(-1)).reshape(out[channel].shape)
        return np.moveaxis(out, 0, axis), f"weights of channel {channel} shuffled"
    factor = 1 + amount * channels**0.5 * rng.choice([-1, 1])
    out[channel] = (out[channel] * factor).astype(weight.dtype)
    return np.moveaxis(out, 0, axis), f"weights of channel {channel} x {factor:.4g}"


def change_vector(vector: Array, rng: np.random.Generator, amount: float, value: Array) -> tuple[Array, str]:
    """One entry of a bias moved by so much that the output, of which `value` is a sample, moves by `amount`."""
    if not np.issubdtype(vector.dtype, np.floating) or not vector.size:
        raise NotHere("no float vector")
    out = vector.copy()
    flat = out.reshape(-1)
    channel = int(rng.integers(flat.size))
    rms = float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))
    moved = amount * rms * flat.size**0.5 * rng.choice([-1, 1])
    flat[channel] += vector.dtype.type(moved)
    return out, f"[{channel}] {moved:+.3g}"


def round_weights(weight: Array, rng: np.random.Generator) -> tuple[Array, str]:
    """Every weight on the grid of a smaller type."""
    name = ("float16", "bfloat16", "int8", "float8_e4m3fn")[rng.integers(4)]
    if name == "int8":
        step = float(np.max(np.abs(weight))) / 127
        if step == 0:
            raise NotHere("all weights are zero")
        return (np.round(weight / step) * step).astype(weight.dtype), "weights rounded to int8"
    return weight.astype(getattr(ml_dtypes, name, name)).astype(weight.dtype), f"weights rounded to {name}"


def swapped_axes(perm: list[int], shape: tuple[int, ...], rng: np.random.Generator) -> tuple[list[int], str]:
    """A permutation with two axes of equal length exchanged, so that the shape stays."""
    equal = [(i, j) for j in range(len(perm)) for i in range(j) if shape[i] == shape[j] > 1]
    if not equal:
        raise NotHere("no two axes of one length")
    i, j = equal[rng.integers(len(equal))]
    after = list(perm)
    after[i], after[j] = after[j], after[i]
    return after, f"perm {perm} -> {after}"
