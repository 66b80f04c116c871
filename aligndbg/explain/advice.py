"""What to change, by kind of cause; a line a person can act on."""

from __future__ import annotations

__all__ = ["ADVICE"]


ADVICE = {
    "input_channel_order": "feed both the same channel order (RGB, BGR), or swap the first weights'",
    "input_normalization": "prepare both inputs with the same mean and scale; look for one inside a model too",
    "layout": "transpose (and copy: .contiguous()) before the reshape, or give the converter the layout it expects",
    "flip": "remove or add the reversal of that axis; convolution against correlation flips the kernel",
    "channel_order": "bring the channels in the same order: shuffle, concat order or weight conversion",
    "padding": "pad explicitly as the reference does (an own Pad operator before an unpadded one), then convert again",
    "stride_offset": "start the strided slice (or the window) where the reference does",
    "resize_mode": "set mode, coordinate transformation and rounding of the resize as the reference has them",
    "pool_mode": "use the reference's pooling, with its count_include_pad and ceil_mode",
    "weight": "convert these weights again from the reference's checkpoint; look for a stale or partly loaded one",
    "bias": "convert this bias again; look for a normalization that was folded inexactly",
    "missing_bias": "carry the bias over; when a normalization is folded it is beta + (bias - mean) * scale",
    "scale": "look for a scale that was folded twice, or not at all (a normalization, a dequantization, a loss scale)",
    "activation": "use the reference's activation with its parameters",
    "missing_activation": "add the activation that the candidate lacks, or fuse the right one",
    "extra_activation": "remove the activation that only the candidate has",
    "approximation": "choose the same form of the function on both sides (exact or approximate)",
    "epsilon": "set the normalization's epsilon to the reference's before it is converted or folded",
    "axis": "work along the reference's axis, renumbered for the candidate's layout",
    "operand_order": "exchange the operands or the parts",
    "attribute": "set these attributes as the reference has them",
    "precision": "keep this operator in the reference's precision, or accept its rounding: raise the tolerance for it",
    "overflow": "keep this operator in float32 or bfloat16, or scale its inputs down",
    "quantization_scale": "calibrate again with typical data, or give this tensor a scale of its own",
    "saturation": "give the parts tensors and scales of their own, or bring them to one range before they are joined",
    "nonfinite": "look at this operator's inputs: a division by zero, a log or root of a negative, an overflow",
    "different_network": "compare builds of one checkpoint",
    "shape": "feed both models inputs of the same logical shape",
    "unexplained": "",
}
