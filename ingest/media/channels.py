"""Mixes stereo to mono so that nothing cancels out.

The mix is the mean of both channels, as everyone mixes. It is silent where one channel is the other with its sign
turned: a wrongly soldered cable, a balanced microphone plugged in as stereo. There, the louder channel is taken alone.
"""

import numpy as np
from numpy.typing import NDArray

from ingest.values import SAMPLE_RATE_HZ

HOP_SAMPLES = SAMPLE_RATE_HZ // 10  # the choice may change ten times a second; it fades over as long
WINDOW_HOPS = 9  # a choice weighs 0.9 s, half of it to come: syllables and single echoes change nothing
# The mix is given up where the difference of the channels has this many times its energy (6 dB), and taken again below
# half of that. Wide stereo has as much in the difference as in the mix, and one channel alone exactly as much.
CANCELLED_RATIO = 4.0
LOUDER_RATIO = 2.0  # the other channel must have this many times the energy of the one that is heard, to be heard
FLOOR_ENERGY = 1e-7 * HOP_SAMPLES  # of a hop, at -70 dB: below it is noise, and the choice stays


class Downmix:
    """Mixes the blocks of one track of stereo sound. Its choice goes on from block to block."""

    def __init__(self) -> None:
        self._is_cancelled = False
        self._channel = 0  # that is heard where the channels cancel out
        self._weights: NDArray[np.float64] | None = None  # of each channel alone, at the end of the last block

    def mix(self, stereo: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mix a block: float32 (2, N) -> float32 (N,), N > 0."""
        count = stereo.shape[1]
        mixed: NDArray[np.float32] = (stereo[0] + stereo[1]) * np.float32(0.5)
        edges = np.append(np.arange(0, count, HOP_SAMPLES), count)
        weights = self._choose(*(_energies(samples) for samples in (mixed, *stereo)))
        before = weights[:1] if self._weights is None else self._weights[None]
        weights, self._weights = np.concatenate([before, weights]), weights[-1]
        if not weights.any():
            return mixed
        left, right = (np.interp(np.arange(count), edges, column) for column in weights.T)
        faded: NDArray[np.float64] = mixed * (1 - left - right) + stereo[0] * left + stereo[1] * right
        return faded.astype(np.float32)

    def _choose(
        self, mixed: NDArray[np.float64], left: NDArray[np.float64], right: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the weights of each channel alone at the end of each hop: (H, 2). Takes energies (H,)."""
        weights = np.zeros((len(mixed), 2))
        apart = (left + right) / 2 - mixed  # the energy of half the difference of the channels
        if not self._is_cancelled and np.all((apart <= CANCELLED_RATIO * mixed) | (left + right < FLOOR_ENERGY)):
            return weights
        mixed, apart, left, right = (_sum_around(energies) for energies in (mixed, apart, left, right))
        for i in range(len(weights)):
            if left[i] + right[i] >= FLOOR_ENERGY:
                ratio = CANCELLED_RATIO / 2 if self._is_cancelled else CANCELLED_RATIO
                self._is_cancelled = bool(apart[i] > ratio * mixed[i])
                heard, other = (left, right) if self._channel == 0 else (right, left)
                if other[i] > LOUDER_RATIO * heard[i]:
                    self._channel = 1 - self._channel
            if self._is_cancelled:
                weights[i, self._channel] = 1.0
        return weights


def _energies(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the energy of each hop; the last one may be shorter."""
    whole = len(samples) // HOP_SAMPLES * HOP_SAMPLES
    hops = samples[:whole].reshape(-1, HOP_SAMPLES)
    energies: NDArray[np.float64] = np.einsum("ij,ij->i", hops, hops).astype(np.float64)
    if whole < len(samples):
        energies = np.append(energies, np.dot(samples[whole:], samples[whole:]))
    return energies


def _sum_around(energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of each hop and the hops around it."""
    return np.convolve(energies, np.ones(WINDOW_HOPS))[WINDOW_HOPS // 2 :][: len(energies)]
