"""Every limit of explaining, with its reason. One without a measurement was chosen, and says so.

The chosen ones are held by tests/explain (each kind of cause on either side, clean pairs without any) and counted on
planted faults (benchmarks/planted_faults.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from aligndbg.measure.thresholds import OWN_LSB

# --- a program in place of the runtime ---------------------------------------------------------------------------
# How far a region as a program may be from the value that the runtime itself gave, and still stand for it: kernels
# differ by rounding. Relative L2 (chosen), and quantization steps (as an int8 operator is judged: over one step).
AS_RUNTIME_REL, AS_RUNTIME_LSB = 2e-4, OWN_LSB
# What folding may move a result by: it rounds the weights once more. Chosen.
FOLDED_REL = 1e-4

# --- a change that explains the error ----------------------------------------------------------------------------
# Error that is left of two equal computations, by the dtype of the output: some roundings of it, over a region. Chosen.
FLOOR: Mapping[str, float] = {"float32": 2e-5, "float64": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
OTHER_FLOOR = 2e-5  # of any other dtype
FLOOR_LSB = OWN_LSB
# Share of the error that a correction may leave where that is still over the floor. Chosen.
LEFT_SHARE = 0.05
# The same of an error so small that its twentieth is below the floor. Chosen; of two steps one may be left.
LEFT_OF_SMALL, LEFT_OF_SMALL_LSB = 0.2, 0.6
# Of fewer steps, one of twenty changes tried because they are common explains an error by chance. Chosen.
GUESS_LSB = 4.0
# What computing in a number format may leave (relative L2) after its result was rounded once. Chosen.
COMPUTED_IN: Mapping[str, float] = {"float16": 4e-3, "bfloat16": 3e-2}

# --- constants ---------------------------------------------------------------------------------------------------
# Relative difference of weights that are the same: folding in float32 moves one by so much.
EQUAL_WEIGHTS = 2e-6
# A form (one factor, another order) explains the difference of two constants when it leaves no more of it. Chosen;
# wider where weights are quantized, which differ by their rounding anyway.
FORM_LEAVES, FORM_LEAVES_QUANTIZED = 0.02, 0.2
REARRANGED_REL = 1e-4  # of a kernel flipped or with its channels in another order, against the other one. Chosen.
# A channel differs by more than rounding: relative to its own largest value, or to a thousandth of the largest of all,
# and by a twentieth of what the worst channel does, since on a quantized side every channel differs a little. Chosen.
CHANNEL_REL, SMALL_CHANNEL, OF_WORST_CHANNEL = 1e-5, 1e-3, 0.05
OTHER_STEP = 0.02  # relative difference of a bias's step from input scale times weight scale that TFLite itself allows
LARGEST_EPSILON = 0.05  # a larger constant that is added is no epsilon: those in use are 1e-12 to 1e-2
# Relative difference of two epsilons that are one number: written in float32 and read back; and found by the search,
# which is no more exact. Chosen.
SAME_EPSILON, SAME_FOUND_EPSILON = 1e-3, 1e-2
SAME_CURVE = 1e-4  # of an activation's values over -8 to 8: GELU's two forms are 5e-4 apart. Chosen.
SLOPE_RANGE = (1e-4, 0.99)  # of a leaky ReLU that is fitted: at its ends it is a ReLU, or none. Chosen.
FACTOR_IS_ONE = 1e-3  # of a factor fitted to a channel: float32 outputs tell no finer. Chosen.
FITS_EXACTLY = 1e-3  # of the error, that one factor or offset for a whole result may leave: it is fitted. Chosen.
FEWEST_FOR_ONE = 4  # values, for a fit of one number. Chosen.
SAME_FACTOR = 1e-5  # of a factor fitted to a result and one that has a reason: float32's rounding. Chosen.
FEWEST_TO_FIT = 8  # values for an affine fit of two numbers. Chosen.
ZERO_POINT_ONLY = 0.01  # of a fitted factor: nearer to 1 than this, only the zero point is off. Chosen.

# --- number formats ----------------------------------------------------------------------------------------------
# The coarsest first, each with the largest relative error (rms over the whole) that rounding to it leaves.
ROUNDING_COST = (("float8_e5m2", 0.1), ("float8_e4m3fn", 0.06), ("int8", 0.06), ("bfloat16", 3e-3), ("float16", 4e-4))
LESS_THAN_ROUNDING = 30  # times less than that cost is no rounding to the format. Chosen.
# Fewer values, or fewer distinct ones, may all be in a format by chance. Chosen.
FEWEST_VALUES, FEWEST_DISTINCT = 48, 8
# Share of a difference that rounding may leave to explain it: folded factors move a few values by a step. Chosen.
ROUNDING_LEAVES = 0.05

# --- the pair as a whole -----------------------------------------------------------------------------------------
FEWEST_WEIGHTS = 3  # of two weights that differ nothing general can be said
# Share of a side's weights that the other has, the larger of both, up to which they have next to nothing in common.
# Of 381 pairs of two of 32 networks, one of them quantized, 0.08 at most but for three whose seeds gave them the same
# weights (0.69, 0.97); of 448 pairs of builds of one network (six exporters and optimizers, fp16, int8, .pt2) always 1.
IN_COMMON = 0.2
# Share of the faults explained by what other weights look like; with fewer, single operators are wrong. Chosen.
WEIGHTS_TO_BLAME = 0.8
SAME_SIZES = 0.9  # share of weights with a counterpart of their size, over which only their values are others. Chosen.
EQUAL_ONCE_MOVED = 0.05  # relative L2 of an output in another order of axes: of a wrong order it is about 1.4. Chosen.
CLIPPED_SHARE = 1e-3  # of an input's values; a range calibrated on typical data cuts off a few. Chosen.
ACCOUNTS = 0.5  # share of an output's error that one weight's rounding makes up to be told as its cause. Chosen.
CUT_OFF = 0.1  # relative L2 of what a range cuts off of an input; clean conversions were measured up to 0.07
LOST = 0.5  # relative error of a part that its scale cannot hold. Chosen.
COARSE_STEPS = 4.0  # a part whose values span fewer has collapsed. Chosen.
FINE_STEPS = 64.0  # a part whose values span more is held well. Chosen.
SEEN_STEPS = 0.75  # what rounding does is half a step; a zero point that is off by one is a whole one
HALVED = 0.67  # share that reading by the right grid may leave: of one step off, rounding is 0.28. Chosen.
FEWEST_OF_PART = 8  # values, in fewer of which a span says nothing. Chosen.
