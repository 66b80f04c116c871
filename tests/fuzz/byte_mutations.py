"""Damage that knows nothing of the format: what disks, networks and interrupted writes do to files."""

from __future__ import annotations

from random import Random

__all__ = ["mutate_bytes"]

EXTREMES = tuple(
    value.to_bytes(size, "little", signed=value < 0)
    for size, values in {
        1: (0, 1, 0x7F, 0x80, 0xFF),
        2: (0, 0x7FFF, 0x8000, 0xFFFF),
        4: (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00100000),
        8: (0, 1, (1 << 63) - 1, -(1 << 63), -1, 1 << 40),
    }.items()
    for value in values
)


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """One to four damages, often at the start or the end of the file, where formats keep their tables."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_DAMAGES)(damaged, rng)
    return bytes(damaged)


def _place(data: bytearray, rng: Random) -> int:
    size = len(data)
    if not size:
        return 0
    near = min(size, 256)
    return rng.choice((rng.randrange(size), rng.randrange(near), size - 1 - rng.randrange(near)))


def _span(data: bytearray, rng: Random) -> slice:
    start = _place(data, rng)
    return slice(start, start + rng.choice((1, 4, 16, 64, 1024)))


def _truncate(data: bytearray, rng: Random) -> None:
    del data[_place(data, rng) :]


def _flip(data: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 1, 8, 64)) if data else 0):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: Random) -> None:
    value, place = rng.choice(EXTREMES), _place(data, rng)
    if rng.random() < 0.7:
        place -= place % len(value)  # tables are aligned
    data[place : place + len(value)] = value


def _noise(data: bytearray, rng: Random) -> None:
    span = _span(data, rng)
    data[span] = rng.randbytes(len(data[span]))


def _zeros(data: bytearray, rng: Random) -> None:
    span = _span(data, rng)
    data[span] = bytes(len(data[span]))


def _delete(data: bytearray, rng: Random) -> None:
    del data[_span(data, rng)]


def _insert(data: bytearray, rng: Random) -> None:
    place = _place(data, rng)
    data[place:place] = rng.randbytes(rng.choice((1, 3, 8, 64)))


def _copy(data: bytearray, rng: Random) -> None:
    block, place = data[_span(data, rng)], _place(data, rng)
    data[place : place + len(block)] = block


_DAMAGES = (_truncate, _flip, _flip, _overwrite, _overwrite, _noise, _zeros, _delete, _insert, _copy)
