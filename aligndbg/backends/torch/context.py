"""The state that torch must be in while models are compared, put back afterwards whatever happens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["quiet", "seeded"]


@contextmanager
def quiet(threads: int) -> Iterator[None]:
    """No gradients, no autocast, no TF32, cuDNN deterministic, attention without its fused fast path, `threads` pinned.

    The compiled parts of a module run as they were before torch.compile.
    """
    import torch

    cudnn, mm, fast = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mha
    before = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, mm.allow_tf32)
    fast_before, threads_before = fast.get_fastpath_enabled(), torch.get_num_threads()
    try:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, mm.allow_tf32 = True, False, False, False
        fast.set_fastpath_enabled(False)
        if threads != threads_before:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, mm.allow_tf32 = before
        fast.set_fastpath_enabled(fast_before)
        if threads != threads_before:
            torch.set_num_threads(threads_before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's (CUDA's too), numpy's and Python's random numbers start at `seed`, and go on as before afterwards."""
    import torch

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
