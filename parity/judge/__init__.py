"""Stored runs in, verdicts out. Loads neither torch nor Ray."""

from parity.judge.judging import differences_tables, judge
from parity.judge.verdict import VERDICTS, Judgement, Largest, Onset, PairVerdict

__all__ = ["VERDICTS", "Judgement", "Largest", "Onset", "PairVerdict", "differences_tables", "judge"]
