"""A job gets the interpreter that runs now only if the head of the cluster is this very machine."""

import json
import socket
import sys
from dataclasses import replace

import pytest

from parity.cluster.jobs.head import Node, choose_interpreter, described_heads, listed_logs

NODE_ID = "fd804efd5cccfa01df15d460c6660f227c3defd4d18b0db8aa660fd3"


@pytest.fixture
def here(tmp_path):
    """A head node on this machine."""
    (tmp_path / "session_x").mkdir()
    (tmp_path / "session_x" / f"metrics_agent_port_{NODE_ID}").write_text("1")
    return Node(NODE_ID, socket.gethostname(), str(tmp_path / "session_x"))


def test_the_head_is_this_machine_if_it_writes_its_files_here(here):
    assert here.is_here
    chosen = choose_interpreter(None, here)
    assert (chosen.command, chosen.reason) == (
        sys.executable,
        "which runs now, as the head of the cluster is this machine",
    )


@pytest.mark.parametrize(
    "other",
    [
        {"node_id": "0" * 56},  # another node of the same session, such as the head, if this machine is a worker
        {"hostname": "elsewhere"},  # it shares the folder
        {"session_dir": "/nowhere/session_x"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_head_that_differs_in_one_thing_is_another_machine(here, other):
    head = replace(here, **other)
    assert not head.is_here
    chosen = choose_interpreter(None, head)
    assert chosen.command == "python"
    assert chosen.reason == (
        f"as the head of the cluster is another machine, {head.hostname}; choose another with --python"
    )


def test_an_interpreter_that_is_given_is_taken_and_python_where_nothing_is_known(here):
    assert choose_interpreter("py -3", here).command == "py -3"
    unknown = choose_interpreter(None, None)
    assert (unknown.command, unknown.reason) == (
        "python",
        "as the head of the cluster is unknown; choose another with --python",
    )


def described(**changes):
    node = {"nodeId": NODE_ID, "nodeManagerHostname": "h", "sessionDir": "/s", "isHeadNode": True, "state": "ALIVE"}
    return {"hostname": "h", "raylet": node | changes}


def answer(*nodes):
    return json.dumps({"result": True, "data": {"summary": list(nodes)}})


def test_the_head_is_found_among_the_nodes_that_the_dashboard_describes():
    worker, dead = described(isHeadNode=False), described(state="DEAD")
    assert described_heads(answer(worker, dead, described())) == [Node(NODE_ID, "h", "/s")]
    assert described_heads(answer(worker)) == []


@pytest.mark.parametrize("text", ["<html>", "{}", "[]", "1", answer({"hostname": "h"}), '{"data": {"summary": null}}'])
def test_an_answer_of_another_form_describes_nothing(text):
    assert described_heads(text) is None


def test_the_logs_of_a_node_are_read_from_the_dashboards_answer():
    assert listed_logs('{"data": {"result": {"internal": ["a.log"], "gcs_server": ["b.log"]}}}') == ["a.log", "b.log"]
    assert [listed_logs(text) for text in ("404", "{}", '{"data": {"result": null}}', "[]")] == [[]] * 4
