"""summary.json: the verdicts for scripts, in strict JSON, where numbers that are not finite are strings."""

import json
from dataclasses import asdict
from typing import Any

from parity.judge.verdict import Judgement, PairVerdict
from parity.render.expressible import in_json
from parity.render.headline import make_pair_headline
from parity.store.schema import SCHEMA_NUMBER


def render(judgement: Judgement) -> str:
    """The text of summary.json."""
    # `allow_nan=False` raises where a number that is not finite was overlooked, instead of writing invalid JSON.
    return json.dumps(summarize(judgement), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def summarize(judgement: Judgement) -> dict[str, Any]:
    """The content of summary.json."""
    return {
        "schema": SCHEMA_NUMBER,
        "verdict": judgement.verdict,
        "exit_status": judgement.exit_status,
        "pairs": [_pair(verdict) for verdict in judgement.pairs],
    }


def _pair(verdict: PairVerdict) -> dict[str, Any]:
    baseline, candidate = verdict.pair.baseline, verdict.pair.candidate
    head = make_pair_headline(verdict)
    # Written out key by key: the keys are a contract with scripts, and fields of the dataclasses are not.
    content = {
        "axis": verdict.pair.axis,
        "baseline": baseline.trial,
        "candidate": candidate.trial,
        "baseline_loss": baseline.loss_name,
        "candidate_loss": candidate.loss_name,
        "baseline_device": baseline.device,
        "candidate_device": candidate.device,
        "seed": candidate.seed,
        "verdict": verdict.verdict,
        "cause": verdict.cause,
        # The cause in parts: its kind and the factor of a gradient, each null where there is none, and a sentence.
        "kind": head.kind,
        "factor": head.factor,
        "words": head.what,
        "first": asdict(verdict.first) if verdict.first else None,
        "onset": asdict(verdict.onset) if verdict.onset else None,
        "largest": asdict(verdict.largest),
        "audit": asdict(verdict.audit) if verdict.audit else None,
        "steps": verdict.steps,
    }
    return {key: in_json(value) for key, value in content.items()}
