"""Energy and area of a converter against its bits, by the survey of published converters.

Best published converters take an energy per conversion that doubles with each bit at low resolution, where technology
limits it, and grows fourfold with each bit where thermal noise does: B. Murmann, "ADC Performance Survey 1997-2024",
https://github.com/bmurmann/ADC-survey, and "The Race for the Extra Decibel", IEEE Solid-State Circuits Magazine 7(3),
58 (2015). Both parts are taken to be equal at ``NOISE_LIMITED_BITS``. The area follows energy and bits by the
regression over that survey of T. Andrulis et al., "Modeling Analog-Digital-Converter Energy and Area for
Compute-In-Memory Accelerator Design", arXiv:2404.06553, with the coefficients of their published model.

Only ratios are used: a target gives a converter's energy and area at one resolution.
"""

from __future__ import annotations

NOISE_LIMITED_BITS = 10
"""Bits at which half of the energy is that of the noise limit."""
AREA_OF_ENERGY = 0.4237
"""Exponent of the area in the energy."""
AREA_OF_BIT = 0.8742
"""Factor of the area for each bit at the same energy."""


def energy_ratio(bits: int, at_bits: int) -> float:
    """Energy of a conversion, as a multiple of that at other bits."""
    return _energy(bits) / _energy(at_bits)


def area_ratio(bits: int, at_bits: int) -> float:
    """Area of a converter, as a multiple of that at other bits."""
    ratio: float = energy_ratio(bits, at_bits) ** AREA_OF_ENERGY * AREA_OF_BIT ** (bits - at_bits)
    return ratio


def _energy(bits: int) -> float:
    return 2.0**bits * (1.0 + 2.0 ** (bits - NOISE_LIMITED_BITS))
