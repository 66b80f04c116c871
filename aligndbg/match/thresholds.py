"""Every number that pairing decides by; the score weights lie with the scores. One without a measurement was chosen.

A sampled error is the root mean square of the difference at up to 1024 places, in units of the reference's spread.
"""

from __future__ import annotations

# --- values --------------------------------------------------------------------------------------------------------

# Sampled error under which two tensors of two fp32 runtimes are taken for the same value: over the accumulated noise
# measured between runtimes (1.5e-4 in ResNet-50, 6e-4 in YOLOv8n), and far under the effect of an op.
STRICT = 1.5e-3
PRECISION = {"float16": 2e-2, "bfloat16": 6e-2}  # likewise, where a side stores values so
# Sampled error under which two tensors may be the same value where a side rounds to grids; what is further on comes
# under it once what lies before is overridden (int8: 0.003 to 0.03 of a layer of its own, 0.8 at a depth of 60).
COARSE = 0.1
COARSE_NOISE = 1e-2  # there, under this two errors are a tie: less than a step, which 8 bits make of most spreads
# A bound that a part of the squares is held to: over it the whole is, whatever rounding does.
SLACK = 1.001
# Errors this many times the best one's, or under the noise of equal values, are a tie: rounding tells them apart.
TIE = 8.0
NOISE = 2e-6
SAME = 1e-5  # sampled error at which values do not tell one layout from another that fits as well
DIVERGED = 0.6  # sampled error past which values no longer tell one layout from another
DIVERGED_TIE = 3.0  # then errors up to so many times the best one's are alike
LAYOUT_TIE = 1.5  # times the best error: layouts of a pair that values did not prove are alike up to there
NEAR = 0.3  # sampled error up to which two tensors of alike names are rather the same than not
ODD = 4  # times more tensors laid out in one order make another one odd

# --- fingerprints --------------------------------------------------------------------------------------------------

# Times the sampled error of two tensors that their fingerprints may be apart: a sample and the whole differ a little.
PRINT_WINDOW = 4
SAME_PRINT, SAME_PRINT_HALF = 1e-5, 1e-2  # distance of two fingerprints of the same values in float32, in fewer bits
PADDED = 1e-4  # relative difference of the sums of a tensor and of what it pads

# --- names ---------------------------------------------------------------------------------------------------------

SHARED_WORDS = 0.5  # of both names, without which names alone propose nothing

# --- weights -------------------------------------------------------------------------------------------------------

# Relative difference of two weights' statistics: the same, the same on int8, another weight.
EXACT_WEIGHT, GRID_WEIGHT, UNLIKE_WEIGHT = 2e-3, 4e-2, 0.2
# Correlation of the statistics of two weights' channels. Of 2,022 weights of 33 networks, against as many drawn anew,
# none reaches 0.9, on an int8 grid or not. The same one does on an int8 grid but for one (0.89; 95 % reach 0.999), and
# with noise of 3 % but for four (9 % reach 0.999).
SAME_WEIGHT, NEAR_WEIGHT = 0.999, 0.9
FEWEST_CHANNELS = 6  # fewer go up and down together by chance
