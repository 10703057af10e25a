"""parity.check in a notebook: nbclient runs its cells in a kernel, as `jupyter nbconvert --execute` does."""

import json

import pytest

from conftest import command

CELLS = {
    "wrong": """
import parity
def mine(output, target):
    return 2 * ((output - target) ** 2).mean()
parity.check(mine, steps=2, batch_size=64)
""",
    "changed": """
def mine(output, target):
    return ((output - target) ** 2).mean()
result = parity.check([mine, lambda output, target: (output - target).square().mean()], steps=2, batch_size=64)
result
""",
    "report": "print(result.report)",
    "open": "result.open().name",
    "function": """
import torch
class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, target):
        ctx.save_for_backward(output, target)
        return ((output - target) ** 2).mean()
    @staticmethod
    def backward(ctx, grad):
        output, target = ctx.saved_tensors
        return grad * 2 * (output - target) / output.numel(), None
parity.check(Square, steps=2, batch_size=64, progress=False).passed
""",
    "raises": """
def raising(output, target):
    return output.foo
parity.check(raising, steps=2, batch_size=64)
""",
    "trouble": """
# The second line is the one that is shown.
parity.check("numppy", steps=2)
""",
}


# In a process of its own, since the packages leave sockets open, which would be errors in this one. The kernel's
# sockets are files in a folder of this user: ports of the machine could be taken by another test.
EXECUTE = """
import sys, nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
path, folder = sys.argv[1:]
notebook = nbformat.read(path, as_version=4)
manager = AsyncKernelManager(transport="ipc", connection_file=f"{folder}/k.json")
NotebookClient(notebook, km=manager, timeout=200, allow_errors=True).execute()
nbformat.write(notebook, path)
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of each cell."""
    folder = tmp_path_factory.mktemp("nb")
    path = folder / "checks.ipynb"
    empty = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [empty | {"id": name, "source": source.strip()} for name, source in CELLS.items()]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    places = {"IPYTHONDIR": str(folder), "JUPYTER_PLATFORM_DIRS": "1", "OMP_NUM_THREADS": "1"}
    ended = command("-c", EXECUTE, path, folder, **places)
    assert ended.status == 0, ended.stderr
    cells = json.loads(path.read_text())["cells"]
    return {cell["id"]: cell["outputs"] for cell in cells}


def shown(outputs, name, kind="text/html"):
    """The value of a cell, or what it displayed, of one kind."""
    found = [each["data"][kind] for each in outputs[name] if kind in each.get("data", {})]
    return "".join(found[-1]) if found else None


def printed(outputs, name, stream):
    return "".join("".join(each["text"]) for each in outputs[name] if each.get("name") == stream)


def test_a_result_shows_itself_as_a_table(outputs):
    page = shown(outputs, "wrong")
    assert "diverged" in page and "gradient is 2× too large" in page and len(page) < 50_000
    assert shown(outputs, "wrong", "text/plain").startswith("diverged: the gradient is scaled by 2 (step 0)")


def test_a_cell_that_is_changed_and_run_again_has_its_new_loss(outputs):
    assert "identical" in shown(outputs, "changed") and "diverged" not in shown(outputs, "changed")
    assert shown(outputs, "function", "text/plain") == "True"


def test_the_report_is_text(outputs):
    text = printed(outputs, "report", "stdout")
    assert "mine@cpu-s0  identical: 2 steps" in text and "&lt;lambda" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert [each["output_type"] for each in outputs["report"]] == ["stream"]


def test_progress_is_one_bar_that_goes(outputs):
    bar = printed(outputs, "wrong", "stderr")
    assert "training" in bar and "/4 steps" in bar and "\n" not in bar
    assert bar.rpartition("\r")[0].rpartition("\r")[2].strip() == ""
    assert printed(outputs, "function", "stderr") == ""


def test_the_whole_page_opens_below_the_cell(outputs):
    (frame,) = [each["data"] for each in outputs["open"] if each["output_type"] == "display_data"]
    assert "".join(frame["text/html"]).startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert (
        "".join(frame["text/plain"]).endswith("report.html") and shown(outputs, "open", "text/plain") == "'report.html'"
    )


def test_a_loss_that_raises_shows_the_users_line(outputs):
    page = shown(outputs, "raises")
    assert "failed" in page and "in raising\n    return output.foo\nAttributeError: " in page


def test_trouble_is_a_message_and_the_callers_line(outputs):
    (error,) = [each for each in outputs["trouble"] if each["output_type"] == "error"]
    assert error["ename"] == "Trouble" and len(error["traceback"]) == 2
    assert error["traceback"][0].startswith("Trouble: Unknown loss 'numppy'.")
    assert error["traceback"][1] == 'in line 2: parity.check("numppy", steps=2)'
