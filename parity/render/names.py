"""The two sides of a pair as sentences name them."""

from parity.judge.verdict import PairVerdict
from parity.render.wrapping import flat


def subjects(verdict: PairVerdict) -> tuple[str, str]:
    """Candidate and baseline, named by the one thing that they differ in: loss, device, or else the trial.

    Args:
        verdict: The pair and its verdict.
    """
    pair = verdict.pair
    # The trials of two runs may have equal names for their losses and devices, so the names of the trials are used.
    if pair.axis == "loss" and not pair.between:
        return flat(pair.candidate.loss_name), flat(pair.baseline.loss_name)
    if pair.axis == "device" and not pair.between:
        return flat(pair.candidate.device), flat(pair.baseline.device)
    return flat(pair.candidate.trial), flat(pair.baseline.trial)


def possessive(name: str) -> str:
    """The name as an owner.

    >>> possessive("Doubled"), possessive("my_loss")
    ("Doubled's", "my_loss's")
    """
    return f"{name}'s"
