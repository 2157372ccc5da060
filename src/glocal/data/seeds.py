"""Random numbers that a seed decides, whichever process draws them."""

import random
from contextlib import contextmanager

import numpy as np
import torch

_GENERATOR = np.random.MT19937(0)  # of `random_state`


def mix_seeds(*numbers: int) -> int:
    """One 64-bit seed of several numbers; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def random_state(seed: int):
    """Python's, NumPy's and torch's random numbers as `seed` decides; what they were before comes back afterwards."""
    # This is done for every sample. NumPy's state takes 0.1 ms to copy, so another generator takes its place meanwhile;
    # torch.manual_seed takes longer still, as it sees to all devices.
    before = random.getstate(), np.random.get_bit_generator(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.set_bit_generator(_GENERATOR)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_bit_generator(before[1])
        torch.default_generator.set_state(before[2])
