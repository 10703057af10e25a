"""The dtypes of stored tensors, without torch: their bits, their numbers and the order of their floats."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np

from parity.judge.ulp import of_bfloat16, positions, steps_between


@dataclass(frozen=True)
class Dtype:
    """How the elements of a dtype are stored.

    Attributes:
        size: Bytes of an element; of a complex one, those of a part.
        kind: "float", "int", or "other", of which only the bits are compared.
        numbers: Makes float64[N] of the bits of floats and whole numbers; exact but for whole numbers beyond 2**53.
        infinity: Of floats, the bits of infinity: a larger magnitude is NaN.
        unit: Of floats, the distance from 1 to the next number.
    """

    size: int
    kind: Literal["float", "int", "other"]
    numbers: Callable[[np.ndarray], np.ndarray]
    infinity: int = 0
    unit: float = 0.0

    def bits(self, octets: np.ndarray) -> np.ndarray:
        """The elements as unsigned integers; uint[N] of uint8[N * size]."""
        found: np.ndarray = octets.view(f"<u{self.size}")
        return found

    def is_nan(self, bits: np.ndarray) -> np.ndarray:
        """Whether each float is NaN; bool[N]."""
        magnitude = bits & bits.dtype.type(2 ** (8 * self.size - 1) - 1)
        found: np.ndarray = np.greater(magnitude, bits.dtype.type(self.infinity))
        return found

    def ulp(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """How many floats lie between two, in steps; uint64[N]. Zeros of both signs are the same."""
        return steps_between(*(positions(bits.view(f"<i{self.size}")) for bits in (left, right)))


def _view(dtype: str, bits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of a NaN that signals
        numbers: np.ndarray = bits.view(dtype).astype(np.float64)
    return numbers


def _bfloat16(bits: np.ndarray) -> np.ndarray:
    return _view("<f4", of_bfloat16(bits))


def _float8(exponent_bits: int, bits: np.ndarray) -> np.ndarray:
    table: np.ndarray = _float8_table(exponent_bits)[bits]
    return table


@cache
def _float8_table(exponent_bits: int) -> np.ndarray:
    """The numbers of float8_e4m3fn or float8_e5m2 by their bits; float64[256].

    Source:
        Micikevicius et al., "FP8 Formats for Deep Learning" (2022), table 1.
    """
    mantissa_bits, bias = 7 - exponent_bits, 2 ** (exponent_bits - 1) - 1
    codes = np.arange(128)
    exponent, mantissa = codes >> mantissa_bits, (codes & (2**mantissa_bits - 1)) / 2**mantissa_bits
    positive = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    if exponent_bits == 4:  # no infinities, and one NaN
        positive[127] = np.nan
    else:
        positive[124:] = [np.inf, np.nan, np.nan, np.nan]
    return np.concatenate([positive, -positive])


def _int(size: int, sign: str) -> Dtype:
    return Dtype(size, "int", partial(_view, f"<{sign}{size}"))


_FLOAT32 = Dtype(4, "float", partial(_view, "<f4"), 0x7F800000, 2.0**-23)
_FLOAT64 = Dtype(8, "float", partial(_view, "<f8"), 0x7FF0000000000000, 2.0**-52)
DTYPES: dict[str, Dtype] = {
    "float64": _FLOAT64,
    "float32": _FLOAT32,
    "float16": Dtype(2, "float", partial(_view, "<f2"), 0x7C00, 2.0**-10),
    "bfloat16": Dtype(2, "float", _bfloat16, 0x7F80, 2.0**-7),
    "float8_e4m3fn": Dtype(1, "float", partial(_float8, 4), 0x7E, 2.0**-3),
    "float8_e5m2": Dtype(1, "float", partial(_float8, 5), 0x7C, 2.0**-2),
    # Their parts one after the other.
    "complex64": _FLOAT32,
    "complex128": _FLOAT64,
    **{f"int{8 * size}": _int(size, "i") for size in (1, 2, 4, 8)},
    **{f"uint{8 * size}": _int(size, "u") for size in (1, 2, 4, 8)},
    "bool": _int(1, "u"),
}
_BYTES = Dtype(1, "other", partial(_view, "<u1"))
# From the widest to the narrowest, as far as each can be widened exactly.
WIDTHS = ("float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn")


def dtype_of(name: str) -> Dtype:
    """How a dtype is stored; one that is not known is compared byte by byte."""
    return DTYPES.get(name, _BYTES)


def rounded(values: np.ndarray, name: str) -> np.ndarray | None:
    """float64[N] numbers rounded to a narrower dtype, to nearest and ties to even; None where that is not known."""
    with np.errstate(over="ignore"):
        if name in ("float32", "float16"):
            return values.astype(name).astype(np.float64)
        if name != "bfloat16":
            return None
        bits = values.astype(np.float32).view(np.uint32)
    upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.nan, _bfloat16(upper))
