"""What each explanation costs. Of those that make the error vanish the cheapest is told; `hypothesis.weigh` adds
what is left of the error.

A cost counts what had to be chosen: nothing where the other file says the very value, about a half for one of a few
words or orders, about one for a number out of a usual list, and half of one or more for each number fitted. Ten times
less error is worth one, so another fitted number must pay by that. All were chosen, none measured: they are what gives
every planted kind its own name (tests/explain, benchmarks/planted_faults.py).
"""

from __future__ import annotations

# --- what the other side's file says -----------------------------------------------------------------------------
OTHERS_EPSILON = 0.0  # read from both files, and different: nothing is simpler
OTHERS_PADS = 0.0  # before a stride offset or a weight that would fit a shifted window as well
OTHERS_BORDER = 0.1  # pads with their mode and value
OTHERS_RESIZE = 0.2
OTHERS_ACTIVATION = 0.4  # before one of the usual ones, and before taking it away
OTHERS_QUANTIZER = 0.5
STORED_BIAS = 0.1  # plain in one file alone: before the bias that differs by it
OTHERS_ATTRIBUTE = 0.6  # after the hypotheses that know this attribute by name
OTHERS_ATTRIBUTES = 0.9  # all at once: only where no one of them does

# --- one of a few words or orders --------------------------------------------------------------------------------
ROUNDED_RESULT = 0.3  # to fp16 or bf16
ROUNDED_INPUTS = 0.6  # after the result: the two look alike behind a copy
ROUNDED_WEIGHTS = 0.8
ROUNDED_STORED_WEIGHTS = 0.3  # both sides' weights are known, one is the other rounded: proof by itself
ROUNDED_STORED_BIAS = 0.4
WEIGHTS_IN_A_FORMAT = 0.6  # one side's alone are all values of a smaller type
INFINITE_MASK = 0.2  # before an overflow: float's lowest is past float16's range, too
OVERFLOW = 0.3  # before NaN and Inf without a reason
NONFINITE = 0.6
OPERANDS = 0.3  # before what the values alone show of it
CONV_BIAS_FORGOTTEN = 0.3  # says why a bias is another, before saying that it is
ROUNDING = DROPOUT = 0.4
STRIDE_OFFSET = 0.4
ATTRIBUTE_WORD = 0.7  # after what both files say
PAD_MODE = 0.7
POOLING_FLAG = 0.4  # before another kind of pooling
POOLING = 0.5
AXIS = 0.5
TRANSPOSE = 0.5  # another order of axes in a Transpose that is there
TRANSPOSE_BEFORE_RESHAPE = 0.8  # one that is not there
ACTIVATION_REMOVED = 0.5  # after the other side's in its place
ACTIVATION_ADDED = 0.8
RESIZE, RESIZE_SETTING = 0.4, 0.2  # and for each setting that is changed
INPUT_CHANNELS = 0.3  # the usual mistake in an input
INPUTS_EXCHANGED = 0.3
INPUT_MOVED = 0.4  # flipped, transposed
INPUT_SCALED = 0.5
INPUT_SCALED_TWICE = INPUT_READ_AS = 0.6

# --- what is seen of the output alone, whatever computed it: after what names the operator's own attribute --------
FLIPPED = 0.4
TRANSPOSED = 0.5
RESHAPED = 0.7  # transposed and read as another shape
CHANNELS_REORDERED = 0.6
CHANNELS_SHUFFLED = 0.9  # many, in ShuffleNet's order
MANY_CHANNELS_REORDERED = 1.5  # sorting many channels fits noise, too

# --- numbers from a usual list, or fitted: about one each --------------------------------------------------------
PADS_SPLIT = 1.0
USUAL_EPSILON = 1.0
FITTED_EPSILON = 2.0  # after the usual values: a search always finds something
USUAL_ACTIVATION = 1.0
FITTED_SLOPE = 1.5
FITTED_ZERO_POINT = 1.0
RESULT_SCALED = 1.6  # all of a result times one number, or plus one: after what names the reason
RESULT_SCALED_AND_SHIFTED = 2.6
FITTED_SCALE = 2.0  # and zero point: a line fits much

# --- constants: other weights explain any error, so they are told last, the more of them the later ---------------
WEIGHTS_REARRANGED = 0.5
BIAS_MISSING = 0.5
ONE_FACTOR = 1.0  # all weights times one number; also a factor that the other side lacks
SMALL_CONSTANT = 1.0  # slopes of a PRelu, an exponent
BIAS = 1.2
FACTOR_OR_NORM = 1.5
OTHER_TABLE = 1.5  # an embedding, a state: constants that are read as they are
FEW_CHANNELS = 1.5  # up to a quarter of the weights' output channels
MANY_CHANNELS = 3.0
ANOTHER_CONSTANT = 0.7  # each further one that is replaced together with the first
FITTED_FACTOR = 1.0  # of a recording, whose constants are unknown: one number for all weights
FITTED_BIAS = 1.5
FITTED_CHANNELS = 2.0

# --- ties --------------------------------------------------------------------------------------------------------
ON_REFERENCE = 0.05  # of two equal explanations, tell what to change in the candidate
