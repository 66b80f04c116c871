"""Torch tensors as numpy arrays that own their memory, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from aligndbg.core.types import Array

__all__ = ["dtype_name", "to_array", "to_tensor", "untappable"]


# Types that numpy has no word for: their bits travel as integers, and ml_dtypes names them.
_BITS = {
    "bfloat16": "int16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
}


def dtype_name(dtype: Any) -> str:
    """torch.float32 -> "float32"."""
    return str(dtype).removeprefix("torch.")


def untappable(tensor: Any) -> str:
    """Why a tensor has no plain array of numbers, or ""."""
    import torch

    if tensor.layout is not torch.strided:
        return f"a {str(tensor.layout).removeprefix('torch.')} tensor"
    if tensor.is_quantized:
        return f"of torch's own quantized type {dtype_name(tensor.dtype)}"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_meta:
        return "on the meta device: it has no values"
    return ""


def to_array(tensor: Any) -> Array:
    """A copy, C-contiguous, in numpy's or ml_dtypes' type of the same name."""
    import torch

    plain = tensor.detach().resolve_conj().resolve_neg().to("cpu")
    name = dtype_name(plain.dtype)
    bits = _BITS.get(name)
    if bits is None:
        return np.array(plain.contiguous().numpy(), order="C")
    import ml_dtypes

    raw = plain.contiguous().view(getattr(torch, bits)).numpy()
    return np.array(raw, order="C").view(getattr(ml_dtypes, name))


def to_tensor(array: Array, device: Any) -> Any:
    """A tensor of its own memory. Raises TypeError for a type torch does not have."""
    import torch

    array = np.array(array, order="C")
    bits = _BITS.get(array.dtype.name)
    if bits is None:
        return torch.from_numpy(array).to(device)
    return torch.from_numpy(array.view(bits)).view(getattr(torch, array.dtype.name)).to(device)
