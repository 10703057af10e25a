"""Pairs of training loops, each wrong or right, with the source of its kind; see `pair` and `loop`."""

from . import (
    at_the_parting,
    relations,
    right_pairs,
    wrong_data,
    wrong_late,
    wrong_operations,
    wrong_results,
    wrong_updates,
)

PAIRS = (
    *wrong_late.PAIRS,
    *wrong_updates.PAIRS,
    *wrong_data.PAIRS,
    *wrong_operations.PAIRS,
    *wrong_results.PAIRS,
    *relations.PAIRS,
    *at_the_parting.PAIRS,
    *right_pairs.PAIRS,
)
