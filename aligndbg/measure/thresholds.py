"""Every number that tells noise from a difference, with its measurement; one without was chosen, and says so.

The tables are in docs/tolerances.md.
"""

from __future__ import annotations

# Relative L2 in fp32. Torch against ONNX Runtime on five networks: clean operators err by at most 5.8e-7 of their own
# (but for one Sigmoid of tiny values, 5e-4: see NOISE_FLOOR), and the errors that accumulate reach 1.5e-4 (ResNet-50)
# and 6e-4 (YOLOv8n).
OWN_REL_L2 = 1e-4
ACCUMULATED_REL_L2 = 1e-3
# Of a dtype with fewer bits, roundings: that of each side's result for an operator alone, room for more than one
# operator's when they accumulate. Chosen.
OWN_ROUNDINGS = 2
ACCUMULATED_ROUNDINGS = 16
ACCUMULATED_SUMS = 10  # times the rounding of a long sum, likewise. Chosen.
# A largest difference under this share of the tensor's largest value is rounding, whatever it is of a value near zero:
# eight roundings of fp32. Chosen.
NOISE_FLOOR = 1e-6

# Quantized against float, accumulated: the error grows with depth (up to 254 steps), so only the direction is held to.
# Chosen.
MIN_COSINE = 0.95
# Quantization steps of an operator alone, on the candidate's grid: clean ones were measured at 1.00 at most, and none
# of 1,161 was over 1.5; a zero point off by 10 gives 10, scales of 1.5 times 14.
OWN_LSB = 1.5
OWN_LSB_16 = 2.5  # 16-bit activations have finer steps than some kernels: TANH was measured at 2.00, no other above 1.5
# For each of the numbers that LiteRT's 16-bit SOFTMAX normalizes: off by 18, 195 and 1,870 steps with 10, 100 and
# 1,000, with every kernel set, as it sums and inverts by tables.
SOFTMAX_LSB_16 = 2.0
# A region that rounds inner tensors to int8 too has no strict bound in steps of its output: clean ones were measured
# at 3 with one inner tensor, 42 with many (a decomposed normalization). With more than a few only the cosine is left.
INNER_LSB = 3.0
FEW_INNER = 2
# The candidate's weights cannot be read (a recorded trace), so the reference computes with unquantized ones: clean
# operators were measured up to 3 steps, some a little over. Weak, and said to be.
UNKNOWN_WEIGHTS_LSB = 5.0
# A float op on int8 weights and activations quantized on the fly: 1/127 on each side, with room for small sums. Chosen.
HYBRID_REL_L2 = 5e-2
# A float op of an explicitly quantized model (Q/DQ) against that of the float one, on the very values and weights that
# it reads: measured up to 4e-4, from biases that are rounded too.
EXPLICIT_REL_L2 = 1e-3

RECORDED_SAMPLE = 4096  # elements of a dump that tell what it was computed in
RECORDED_FEWEST = 300  # that are not zero: fewer may be exact in float16, or on a grid, by chance. Chosen.
INT8_VALUES = 256  # distinct ones
