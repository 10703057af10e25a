"""The formats of a document: text, Markdown, JSON and JUnit XML."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from xml.etree import ElementTree as ET

from rich.text import Text

from parity.ground.streams import encodable
from parity.render.console import make_console
from parity.render.documents.document import Document, Finding
from parity.render.expressible import in_json, in_xml
from parity.render.markdown_text import code, prose, table
from parity.render.wrapping import WIDTH, clip, flat, wrap

# Most findings that are shown in full, and that have a row in a Markdown table.
MOST_SHOWN, _MOST_ROWS = 12, 200
_STYLES = {0: "green", 3: "yellow", 1: "bold red"}
# Columns of a label: "passes with" and two spaces.
_LABEL_WIDTH = 13
# Most characters of a Markdown table; GitHub accepts comments of 65,536.
_TABLE = 50_000


def _text(documents: Sequence[Document]) -> str:
    """The report as text, in colour where stdout is a terminal."""
    console = make_console()
    width = max(20, min(console.width, WIDTH))
    with console.capture() as capture:
        for place, document in enumerate(documents):
            for line in ["", *_lines(document, width)] if place else _lines(document, width):
                console.print(line, soft_wrap=True, highlight=False)
    return capture.get()


def _lines(document: Document, width: int) -> Iterator[Text]:
    title = f"{document.subject}: {document.word}"
    yield Text(title, style=_STYLES[document.exit_status])
    yield from map(Text, wrap(document.headline, width=width))
    for label, text in document.sides:
        yield from map(Text, _labelled(label, text, width, indent=""))
    for finding in document.findings[:MOST_SHOWN]:
        yield Text()
        yield Text.assemble(flat(finding.name), "  ", (finding.word, _STYLES[finding.exit_status]))
        for label, text in finding.facts:
            yield from map(Text, _labelled(label, text, width, indent="  "))
    more = len(document.findings) - MOST_SHOWN
    closing = [f"{more:,} more that differ are not shown; --format json has them all."] if more > 0 else []
    closing += [document.passed] if document.passed else []
    for part in (closing, document.notes):
        if part:
            yield Text()
        for line in part:
            yield from map(Text, wrap(line, width=width, then="  "))
    if document.advice:
        yield Text()
        yield Text("What to do next")
        for line in document.advice:
            yield from map(Text, wrap(line, width=width, first="  ", then="    "))


def _labelled(label: str, text: str, width: int, *, indent: str) -> list[str]:
    first = f"{indent}{label:<{_LABEL_WIDTH - 1}} "
    return wrap(text, width=width, first=first, then=" " * len(first))


def _markdown(documents: Sequence[Document]) -> str:
    return "\n\n".join("\n\n".join(_paragraphs(document)) for document in documents) + "\n"


def _paragraphs(document: Document) -> Iterator[str]:
    yield f"## parity: {document.subject} {document.word}"
    yield f"**{prose(document.headline, most=2000)}**"
    yield "\n".join(f"- {label}: {prose(text)}" for label, text in document.sides)
    rows = [[code(each.name), each.word, prose(each.message)] for each in document.findings[:_MOST_ROWS]]
    if rows:
        yield table(
            [document.subject[:-1], "result", "what was found"],
            rows,
            most=_TABLE,
            left_out=max(0, len(document.findings) - _MOST_ROWS),
        )
    if document.passed:
        yield prose(document.passed)
    if document.notes:
        yield "\n".join(f"- {prose(note)}" for note in document.notes)
    if document.advice:
        yield "**What to do next**"
        yield "\n".join(f"- {prose(line)}" for line in document.advice)


def _json(documents: Sequence[Document]) -> str:
    content = documents[0].content if len(documents) == 1 else [each.content for each in documents]
    return json.dumps(in_json(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _junit(documents: Sequence[Document]) -> str:
    """A case for each finding, and one for the whole, which fails where a name or a step is missing."""
    suites = ET.Element("testsuites", name="parity")
    for document in documents:
        suite = ET.SubElement(suites, "testsuite", name=f"parity.{document.subject}")
        sides = " ".join(text for _, text in document.sides)
        whole = Finding(sides, document.word, document.exit_status, document.headline)
        for finding in (whole, *document.findings):
            _add_case(suite, document.subject, finding)
        suite.attrib.update(_counts(suite))
    suites.attrib.update(_counts(suites))
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="us-ascii").decode("ascii")}\n'


def _add_case(suite: ET.Element, subject: str, finding: Finding) -> None:
    case = ET.SubElement(suite, "testcase", classname=f"parity.{subject}", name=in_xml(finding.name), time="0.000")
    details = in_xml("\n".join(f"{label}: {text}" for label, text in finding.facts) or finding.message)
    outcome = {1: "failure", 3: "error"}.get(finding.exit_status)
    if outcome:
        message = in_xml(clip(finding.message, 500))
        ET.SubElement(case, outcome, type=finding.word, message=message).text = details
    else:
        ET.SubElement(case, "system-out").text = details


def _counts(element: ET.Element) -> dict[str, str]:
    found = {name: len(element.findall(f".//{path}")) for name, path in _COUNTED.items()}
    return {**{name: str(count) for name, count in found.items()}, "skipped": "0", "time": "0.000"}


_COUNTED = {"tests": "testcase", "failures": "testcase/failure", "errors": "testcase/error"}


FORMATS: dict[str, Callable[[Sequence[Document]], str]] = {
    "text": _text,
    "markdown": _markdown,
    "json": _json,
    "junit": _junit,
}


def print_documents(documents: Sequence[Document], *, form: str = "text") -> None:
    """Prints reports to stdout, in one of `FORMATS`."""
    sys.stdout.write(encodable(FORMATS[form](documents), getattr(sys.stdout, "encoding", None), form))
