"""JUnit XML for the test reports of CI systems: a test case for each pair.

A candidate that is wrong (diverged, failed: exit status 1) is a failure; where there is no answer (inconclusive, a
failed baseline, nothing to compare: exit status 2 or 3) the case is an error. So no case passes in a run whose exit
status is not 0, and none is skipped, since most CI systems count skipped cases as passed.

The document is written with xml.etree: the library junitparser, which reads it in the tests, writes neither ASCII nor
escapes for characters that XML does not allow.

Source:
    github.com/testmoapp/junitxml for the elements that GitHub's publishers, GitLab and Jenkins read.
"""

import math
from datetime import datetime
from xml.etree import ElementTree as ET

from parity.ground.quoting import cut
from parity.judge.verdict import Judgement, PairVerdict
from parity.render import story
from parity.render.expressible import in_xml
from parity.render.pair_text import block
from parity.render.wrapping import clip, flat
from parity.store.stored_run import StoredRun
from parity.store.trials import TrialRecord

# Tag of a case by the exit status of its verdict.
_OUTCOMES = {1: "failure", 3: "error"}
# Most characters of a message, since CI systems show it as a title.
_MESSAGE = 500


def render(run: StoredRun, judgement: Judgement) -> str:
    """The document in ASCII, with references for all other characters, so that it is the same in every encoding.

    Args:
        run: The stored run.
        judgement: Its judgement.
    """
    task = flat(run.trials[0].task) if run.trials else "parity"
    suite = ET.Element("testsuite", name=task)
    _describe_run(run, suite)
    # A case of its own, since a baseline that failed has no pair that could fail.
    if judgement.trouble:
        _add_case(suite, f"parity.{task}", "baseline", 0.0, "error", "trouble", judgement.trouble, judgement.trouble)
    # A suite without cases would pass; that nothing was compared must not.
    if not judgement.pairs:
        message = story.headline(judgement)
        _add_case(suite, f"parity.{task}", "pairs", 0.0, "error", "inconclusive", message, message)
    for verdict in judgement.pairs:
        _add_pair(suite, task, verdict)
    counts = {
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": str(len(suite.findall("testcase/error"))),
        "skipped": "0",
        "time": _seconds(sum(map(_wall_s, run.trials))),
    }
    suite.attrib.update(counts)
    # Some readers take the counts of the root, others those of the suite.
    suites = ET.Element("testsuites", {"name": "parity", **counts})
    suites.append(suite)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="us-ascii").decode("ascii")}\n'


def _describe_run(run: StoredRun, suite: ET.Element) -> None:
    """Adds when and where the run was made, its command, and the notes that a reader needs before the verdicts."""
    try:
        began = datetime.fromisoformat(str(run.info.get("created")))
        # The format has no time zones.
        suite.set("timestamp", began.replace(tzinfo=None).isoformat(timespec="seconds"))
    except ValueError:
        pass  # run.json may come from another tool, and a suite may have no timestamp
    suite.set("hostname", in_xml(str(run.info.get("host", ""))))
    properties = ET.SubElement(suite, "properties")
    facts = [("command", run.info.get("command")), ("directory", run.directory)]
    for name, value in (*facts, *(("note", note) for note in story.notes(run))):
        if value:
            ET.SubElement(properties, "property", name=name, value=in_xml(str(value)))


def _add_pair(suite: ET.Element, task: str, verdict: PairVerdict) -> None:
    """Adds the case of a pair; its seconds are those of the candidate's training only, since pairs share a baseline."""
    pair = verdict.pair
    details = "\n".join(line.plain for line in block(verdict))
    if pair.candidate.traceback and verdict.verdict == "failed":
        # The traceback last, as Python prints it, with the error in its last line.
        details = f"{details}\n\n{cut(pair.candidate.traceback)}"
    _add_case(
        suite,
        f"parity.{task}.{pair.axis}",
        f"{pair.baseline.trial} {pair.candidate.trial}",
        _wall_s(pair.candidate),
        _OUTCOMES.get(verdict.meaning.exit_status),
        verdict.verdict,
        # The first 80 characters are all that many CI systems show: the verdict, and what is wrong.
        clip(f"{verdict.verdict}: {_news(verdict)}", _MESSAGE),
        details,
    )


def _news(verdict: PairVerdict) -> str:
    """What is wrong, or why it is not known."""
    return verdict.cause if verdict.verdict == "inconclusive" and verdict.cause else story.pair_headline(verdict)


def _add_case(
    suite: ET.Element, place: str, name: str, wall_s: float, outcome: str | None, kind: str, message: str, details: str
) -> None:
    """Adds a case; one without an outcome passes."""
    case = ET.SubElement(suite, "testcase", classname=in_xml(place), name=in_xml(name), time=_seconds(wall_s))
    if outcome:
        found = ET.SubElement(case, outcome, type=kind, message=in_xml(message))
        found.text = in_xml(details)
    else:
        # A case that passes has no message; what was compared is its output.
        ET.SubElement(case, "system-out").text = in_xml(details)


def _wall_s(record: TrialRecord) -> float:
    # A trial that did not end has no time.
    return record.wall_s if record.wall_s and math.isfinite(record.wall_s) else 0.0


def _seconds(wall_s: float) -> str:
    return f"{wall_s:.3f}"
