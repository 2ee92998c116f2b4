"""Word times beside openai-whisper's own steps."""

from itertools import product

import numpy as np
import pytest
import torch
from whisper.timing import dtw_cpu
from whisper.timing import median_filter as openai_median_filter

from encoders.speech.alignment import median_filter, warp


def test_every_order_of_seven_values_has_its_median() -> None:
    # What puts all rows of zeros and ones in order puts all values in order (Knuth 5.3.4, the zero-one principle).
    rows = torch.tensor(list(product([0.0, 1.0], repeat=7)))[None]
    assert torch.equal(median_filter(rows)[0, :, 3], rows[0].median(dim=-1).values)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 40])
def test_the_median_filter_is_openai_whispers(length: int) -> None:
    values = torch.randn(3, 4, length, generator=torch.Generator().manual_seed(1))
    for each in (values, values.round()):
        assert torch.equal(median_filter(each), openai_median_filter(each, 7))


@pytest.mark.slow  # numba compiles theirs
def test_paths_are_openai_whispers_whatever_is_equal() -> None:
    random = np.random.default_rng(1)
    for number in range(300):
        cost = random.normal(size=random.integers(1, (12, 60), size=2)).astype(np.float32)
        if number % 2:
            cost = cost.round()
        assert np.array_equal(np.stack(warp(cost)), dtw_cpu(cost.astype(np.float64)))
