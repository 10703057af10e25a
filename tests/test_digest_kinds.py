"""Recordings and runs whose tensors are digested by words, as those on accelerators are, and what they equal."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from recorded_loop import trace_of

from parity import report, run
from parity.ground.errors import Trouble
from parity.judge.judging import judge
from parity.judge.several_runs import join
from parity.judge.starts import differences_of_starts, equal_parameters
from parity.observe.digest import digest
from parity.observe.fingerprint import fingerprint
from parity.observe.rows import Rows
from parity.plan import planning
from parity.plan.device import parse_device
from parity.plan.planning import digest_kind, plan
from parity.plan.trial import Settings
from parity.plan.user_code import CodeSpec

pytestmark = pytest.mark.usefixtures("one_thread")


def kind_of(out):
    return pq.read_table(out / "trials.parquet")["digest_kind"].to_pylist()


def judged(*directories):
    joined = join(directories, across=False)
    (pair,) = judge(joined.run, joined.pairs).pairs
    return pair


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Directories of one loop, recorded with digests of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    return {name: trace_of(folder / name, digest=name) and folder / name for name in ("auto", "xxh3", "words")}


def test_a_loop_on_the_cpu_has_xxh3_unless_asked_otherwise(recordings):
    assert {name: kind_of(out) for name, out in recordings.items()} == {
        "auto": ["xxh3"],
        "xxh3": ["xxh3"],
        "words": ["words"],
    }


def test_words_change_digests_and_nothing_else(recordings):
    hashed, words = (pq.read_table(next((recordings[name] / "traces").iterdir())) for name in ("xxh3", "words"))
    differing = {
        name for name in hashed.column_names if hashed[name].to_pylist() != words[name].to_pylist() and name != "step_s"
    }
    assert {"input_digest", "output_digest", "param_digests", "param_grad_digest", "state_digest"} <= differing
    assert all("digest" in name for name in differing)
    assert not {"loss_digest", "generator_digests"} & differing


@pytest.mark.parametrize("name", ["auto", "xxh3"])
def test_xxh3_is_that_of_the_bytes(recordings, name):
    model = trace_of(None)
    trace = pq.read_table(next((recordings[name] / "traces").iterdir()))
    assert trace["param_digests"].to_pylist()[-1] == [digest(parameter) for parameter in model.parameters()]


def test_words_are_those_of_the_bytes(recordings):
    model = trace_of(None)
    trace = pq.read_table(next((recordings["words"] / "traces").iterdir()))
    expected = fingerprint(list(model.parameters()), "words").digests.tolist()
    assert trace["param_digests"].to_pylist()[-1] == expected


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(Trouble) as trouble:
        trace_of(tmp_path / "out", digest="md5")
    assert str(trouble.value) == (
        "parity.Recorder: digest='md5' is not a kind of digest. Give 'auto', 'xxh3' or 'words'."
    )


def test_recordings_of_one_kind_are_identical(recordings, tmp_path):
    for name in ("xxh3", "words"):
        trace_of(tmp_path / name, digest=name)
        assert judged(recordings[name], tmp_path / name).verdict == "identical"


@pytest.mark.parametrize("order", [("xxh3", "words"), ("words", "auto")])
def test_recordings_of_two_kinds_are_not_compared(recordings, order):
    verdict = judged(*(recordings[name] for name in order))
    assert verdict.verdict == "inconclusive"
    kinds = ["words" if name == "words" else "xxh3" for name in order]
    trials = [verdict.pair.baseline.trial, verdict.pair.candidate.trial]
    hashed = trials[kinds.index("xxh3")]
    assert verdict.cause == (
        f"their tensors cannot be compared: {trials[0]} has digests of the kind {kinds[0]}, {trials[1]} of the kind "
        f'{kinds[1]}. Record {hashed} again with parity.Recorder(digest="words"), or have parity.run '
        "train on both devices in one run"
    )
    assert (verdict.first, verdict.causes, verdict.onset) == (None, (), None)
    assert not any(verdict.comparison.differs_in(name).any() for name in ("input", "output", "param_grad", "param"))
    assert differences_of_starts(verdict.comparison.common) == ()


def test_the_reports_say_that_one_quantity_is_compared_and_that_the_others_cannot_be(recordings, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert report.main([*(str(recordings[name]) for name in ("xxh3", "words")), "--html", str(page)]) == 3
    assert "compared 4 steps, 1 quantity (without state, input," in " ".join(capsys.readouterr().out.split())
    text = page.read_text()
    assert "No difference was found in 4 steps of 1 quantity." in text
    assert "1 at each step, bit for bit: loss; not comparable in each pair: state, input," in text


def test_a_wrong_loop_of_another_kind_is_not_identical_either(recordings, tmp_path):
    trace_of(tmp_path / "wrong", digest="words", lr=2e-2)
    assert judged(recordings["xxh3"], tmp_path / "wrong").verdict == "inconclusive"
    assert judged(recordings["words"], tmp_path / "wrong").verdict == "diverged"


@pytest.mark.parametrize("name", ["xxh3", "words"])
def test_a_resumed_recording_continues_one_of_its_kind(recordings, tmp_path, name):
    trace_of(tmp_path / "late", digest=name, first_step=2)
    verdict = judged(recordings[name], tmp_path / "late")
    assert verdict.verdict == "identical"
    # What it began with are the digests after the other one's last step before.
    assert equal_parameters(verdict.comparison.common)
    assert differences_of_starts(verdict.comparison.common) == ()


def test_a_run_is_digested_by_words_where_a_device_is_an_accelerator():
    cpu, cuda = parse_device("cpu"), parse_device("cuda")
    assert [digest_kind(devices) for devices in ([cpu], [cuda], [cpu, cuda])] == ["xxh3", "words", "words"]


def test_a_trial_of_an_earlier_version_has_xxh3(recordings):
    record = judged(recordings["xxh3"], recordings["auto"]).pair.baseline
    assert replace(record, digest_kind=None).digested_by == "xxh3"


def test_xxh3_has_the_digests_of_earlier_versions():
    # As the commit before this one printed them: traces of a CPU stay comparable with stored ones.
    given = torch.arange(60_000.0).div(7).reshape(300, 200)
    found = fingerprint([given, None, given[:3].bfloat16(), torch.arange(3)])
    assert [f"{number:016x}" for number in found.digests.tolist()] == [
        *("14934ba4f0a4abca", "0000000000000000", "a1c7c9608c34f3fa", "b1438737944fdf5b")
    ]
    rows = Rows(sketched=True)
    rows.add([given[:100], given[:7, 0]])
    rows.add([given[100:], given[7:9, 0]])
    assert (f"{found.digest:016x}", f"{rows.digest:016x}") == ("612b4f1848434d20", "9e59c4c96e4c1c99")


def test_each_trial_of_a_plan_with_an_accelerator_has_words():
    code = CodeSpec("builtin", "builtin")
    settings = Settings(task=code, rows=8, batch_size=4, steps=2, lr=1e-3, audit_every=1)
    devices = {"cpu": [parse_device("cpu")], "both": [parse_device("cpu"), parse_device("cuda")]}
    kinds = {
        name: {trial.digest_kind for trial in plan([code], each, seeds=[0, 1], replicas=2, settings=settings, noise=1)}
        for name, each in devices.items()
    }
    assert kinds == {"cpu": {"xxh3"}, "both": {"words"}}


def test_a_run_with_words_is_judged_as_one_with_xxh3(tmp_path, monkeypatch, capsys):
    options = ["--loss", "builtin", "numpy", "--device", "cpu", "cpu:threads=2", "--steps", "3", "--inline"]
    verdicts = []
    for kind in ("xxh3", "words"):
        # As if one of the devices were an accelerator.
        monkeypatch.setattr(planning, "digest_kind", lambda devices, kind=kind: kind)
        status = run.main([*options, "--format", "json", "--out", str(tmp_path / kind)])
        pairs = json.loads(capsys.readouterr().out)["pairs"]
        verdicts.append((status, [(pair["verdict"], pair["cause"]) for pair in pairs]))
        assert set(kind_of(tmp_path / kind)) == {kind}
    assert verdicts[0] == verdicts[1]
    shared = [pq.read_table(tmp_path / kind / "shared_steps.parquet").to_pylist() for kind in ("xxh3", "words")]
    assert shared[0] == shared[1] != []
