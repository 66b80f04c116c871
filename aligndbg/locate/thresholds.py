"""The numbers of locating: limits with what was measured, and the budgets of the search."""

from __future__ import annotations

__all__ = [
    "CLOSER",
    "DEPTHS",
    "DILUTED",
    "EARLIER",
    "FELT",
    "FELT_STEPS",
    "JITTER_TIMES",
    "JITTER_ULPS",
    "LARGEST",
    "MOST_EARLIER",
    "MOST_FAULTS",
    "MOST_ROUNDS",
    "PROBES",
    "SAME_PLACE",
    "SUSPECT",
    "WINDOW",
    "agreement",
]

# Relative L2 up to which a tensor has come right: what is computed from corrected values carries the accumulated noise
# of all that lies between (1.5e-4 measured in fp32 networks), far under the effect of an operator.
_AGREE = {"float16": 2e-2, "bfloat16": 6e-2}
AGREE = 2e-3
# Own error from which a region is looked into: five times the largest of clean ones (1.9e-6 in fp32). The end of a
# region dilutes what is wrong inside.
SUSPECT = 1e-5
# A few ulps of jitter on a region's borders; a region is no fault below this many times what that does.
JITTER_ULPS, JITTER_TIMES = 4, 8
# Cut there, what is right below comes clean; not cut, it is off by this many times more: then the fault is felt.
FELT = 4
# On a grid, in steps on average: clean operators alone were measured under 0.03 in int8, tensors of few elements aside.
FELT_STEPS = 0.03
DILUTED = 30  # a region's end shows at least this part of a fault inside it. Chosen.
CLOSER = 100  # this part of a limit is noise, and suspect where one looks closer: clean ones reach 1.9e-6 of 1e-4
LARGEST = 1e3  # rms from which a probe only shuffles values: a mask's have a meaning of their own. Chosen.
PROBES = 3  # random border values on which two regions must agree to be called equivalent

# Budgets of one search: tensors up to this depth of the broken part on each side, and the experiments there.
DEPTHS = ((3, 40), (8, 60), (24, 80), (10**6, 120))
WINDOW = 24  # tensors below a proposal that are looked at
EARLIER, MOST_EARLIER = 12, 40  # steps up into a region, and proposals at each
MOST_FAULTS = 12  # places that are corrected one after the other
MOST_ROUNDS = 4 * MOST_FAULTS  # full runs of the follower
SAME_PLACE = 1.8  # the order in which pairs are proposed, for one operator on the same inputs at the least depth


def agreement(dtype: str) -> float:
    """The relative L2 up to which a tensor of this dtype has come right."""
    return _AGREE.get(dtype, AGREE)
