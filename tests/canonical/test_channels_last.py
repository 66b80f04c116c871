from __future__ import annotations

from aligndbg.canonical.channels_last import same_pads


def test_same_gives_the_odd_row_to_the_end() -> None:
    assert same_pads(224, 3, 2) == (0, 1)
    assert same_pads(225, 3, 2) == (1, 1)
    assert same_pads(8, 2, 2) == (0, 0)
