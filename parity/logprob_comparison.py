"""What was found about the log-probabilities of a trainer and a sampler, and its text."""

import math
import textwrap
from dataclasses import dataclass
from typing import Literal, TypeAlias

from parity.judge.straight_line import StraightLine

Word: TypeAlias = Literal["identical", "floor", "fault", "undecided"]
# Mean error of a side against the reference, in units u (1 + |reference|), that counts as noise of its dtype. Seen in
# transformers of 2 to 36 layers: 2.2 to 2.6 in float32, 0.5 to 0.8 in bfloat16 and float16.
FLOOR = 8.0


@dataclass(frozen=True)
class SideError:
    """The error of one side against the reference.

    Attributes:
        dtype: The dtype whose noise is expected.
        tokens: Number of tokens.
        mean, p99: Mean and 99th percentile of the absolute error.
        bias: Mean error, with its sign.
        units: Mean absolute error in units u (1 + |reference|) of the dtype.
        largest: Largest absolute error, in the same units.
        line: The line over the reference that is nearest to the errors; None where one is not finite.
    """

    dtype: str
    tokens: int
    mean: float
    p99: float
    bias: float
    units: float
    largest: float
    line: StraightLine | None

    @property
    def systematic(self) -> bool:
        """Whether the errors follow a line, as those of noise do not."""
        return self.line is not None and self.line.systematic

    @property
    def outlier(self) -> bool:
        """Whether one token is further off than noise explains: n exponential errors reach about log(n) means."""
        return not self.largest <= self.reach

    @property
    def reach(self) -> float:
        """Largest error that noise explains, in the same units."""
        return FLOOR * (1 + math.log(self.tokens))


@dataclass(frozen=True)
class LogprobComparison:
    """What was found about two arrays of log-probabilities.

    Attributes:
        word: "identical": equal numbers; "floor": noise of the dtype; "fault": more; "undecided": no evidence.
        reason: Why, in words.
        tokens: Number of tokens that were compared.
        masked: Number of places that were not: outside the mask, or padding on both sides.
        different: Number of tokens that differ.
        mean, p99, largest: Of the absolute difference; inf where one side is not finite.
        largest_at: Index of the largest.
        bias: Mean of train - rollout.
        k1, k3: Estimates of the Kullback-Leibler divergence of rollout from train, in nats.
        units: Mean absolute difference in units u (1 + |rollout|) of the wider-rounding dtype.
        train, rollout: Errors of both sides against the reference; None without one.
    """

    word: Word
    reason: str
    tokens: int
    masked: int
    different: int
    mean: float
    p99: float
    largest: float
    largest_at: tuple[int, ...]
    bias: float
    k1: float
    k3: float
    dtypes: tuple[str, str]
    units: float
    train: SideError | None
    rollout: SideError | None

    @property
    def passed(self) -> bool:
        """Whether the sides are identical, or differ by noise only."""
        return self.word in ("identical", "floor")

    def __str__(self) -> str:
        lines = [
            f"log-probabilities: {self.word}",
            self.reason,
            f"tokens      {self.tokens:,} compared, {self.different:,} differ, {self.masked:,} masked or padding",
            f"difference  mean {self.mean:.3g}, 99 % below {self.p99:.3g}, largest {self.largest:.3g} "
            f"at {list(self.largest_at)}",
            f"bias        train - rollout {self.bias:+.3g} on average; "
            f"KL(rollout, train) k1 {self.k1:.3g}, k3 {self.k3:.3g} nats",
        ]
        for name, side in (("train", self.train), ("rollout", self.rollout)):
            if side:
                lines.append(
                    f"{name:<12}error against the reference: mean {side.mean:.3g}, 99 % below {side.p99:.3g}, "
                    f"bias {side.bias:+.3g}; {side.units:.3g} units of {side.dtype}"
                )
        return "\n".join(part for line in lines for part in _wrapped(line))


def _wrapped(line: str) -> list[str]:
    """The line in lines of at most 80 columns; those of a label stand behind it."""
    indent = " " * 12 if line[8:12].endswith("  ") else ""
    return textwrap.wrap(line, 80, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True)
