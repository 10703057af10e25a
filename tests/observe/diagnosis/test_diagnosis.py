"""The rules, each on a gradient with that fault planted; and a right gradient, which has none."""

import pytest
import torch
import torch.nn.functional as F

from parity.observe.audit import make_oracle, oracle_of
from parity.observe.diagnosis import whole_rules
from parity.observe.diagnosis.diagnostician import Diagnostician
from parity.observe.diagnosis.hypotheses import _REGRESSION, gradient
from parity.observe.diagnosis.rules import diagnose
from parity.observe.diagnosis.whole_rules import _other_loss
from parity.observe.diagnosis.wrong_gradient import WrongGradient, flat
from parity.plan.task_spec import parse_task
from parity.plan.trial import Place
from parity.plan.user_code import CodeSpec
from parity.store.tables import FINDING_KINDS
from parity.tasks.loading import load_task
from parity.tasks.losses import load_loss


@pytest.fixture(scope="module")
def case():
    task = load_task(parse_task("mnist-autoencoder"))
    spec = CodeSpec(name="builtin", attr="builtin")
    generator = torch.Generator().manual_seed(0)
    output, target = torch.rand(12, 20, generator=generator), torch.rand(12, 20, generator=generator)
    return output, target, load_loss(spec, task), make_oracle(spec, task)


def found(case, spoil):
    output, target, baseline, oracle = case
    grad = 2 * (output - target) / output.numel()
    return diagnose(7, output, target, spoil(grad.clone()), baseline=baseline, oracle=oracle)


def _zeroed(*index):
    def spoil(grad):
        grad[index] = 0
        return grad

    return spoil


@pytest.mark.parametrize(
    ("spoil", "kind", "detail"),
    [
        (lambda grad: grad * 3, "scaled", ""),
        (lambda grad: -grad, "scaled", ""),
        (lambda grad: grad * 0, "zero", ""),
        (lambda grad: grad / 0, "nan", "240 of 240"),
        (lambda grad: grad + 1e-3, "offset", ""),
        (lambda grad: grad.flip(0), "permuted", "rows in reverse"),
        (lambda grad: grad.roll(1, 1), "permuted", "columns shifted by 1"),
        (lambda grad: grad.bfloat16().float(), "precision", "bfloat16"),
        (lambda grad: grad.sign() / grad.numel(), "other loss", "L1"),
        (_zeroed(3), "rows", "rows 3 of 12 (zero)"),
        (_zeroed(slice(None), slice(5, 7)), "columns", "columns 5 to 6 of 20 (zero)"),
        (_zeroed(3, 5), "elements", "1 of 240 elements, the first [3, 5] (zero)"),
        (lambda grad: grad + 1e-2 * torch.rand(12, 20), "unknown", "cosine"),
    ],
)
def test_a_planted_fault_is_recognised(case, spoil, kind, detail):
    finding = found(case, spoil)
    assert (finding.step, finding.kind) == (7, kind)
    assert detail in finding.detail


def test_a_right_gradient_has_no_fault(case):
    assert found(case, lambda grad: grad) is None


def test_the_factor_and_the_offset_are_measured(case):
    assert found(case, lambda grad: grad * 3).value == pytest.approx(3, rel=1e-6)
    assert found(case, lambda grad: grad + 1e-3).value == pytest.approx(1e-3, rel=1e-3)


# Outputs that are trees


def sparse(output, target):
    return F.mse_loss(output["reconstruction"], target) + 0.1 * output["code"].square().mean()


def tree(case):
    """Output {reconstruction, code}, target, and the right gradient for each part."""
    reconstruction, target, *_ = case
    output = {"reconstruction": reconstruction, "code": torch.rand(12, 4, generator=torch.Generator().manual_seed(1))}
    right = [2 * (reconstruction - target) / target.numel(), 0.2 * output["code"] / output["code"].numel()]
    return output, target, right


@pytest.mark.parametrize(
    ("spoil", "kind", "detail"),
    [
        (lambda code: code * 2, "scaled", "in output part code"),
        (lambda code: code * 0, "zero", "in output part code"),
        (lambda code: code.flip(0), "permuted", "rows in reverse, in output part code"),
        (lambda code: code.bfloat16().float(), "precision", "bfloat16, in output part code"),
        (_zeroed(3), "rows", "rows 3 of 12 (zero), in output part code"),
    ],
)
def test_a_fault_in_one_part_of_a_tree_is_found_there(case, spoil, kind, detail):
    output, target, (first, second) = tree(case)
    finding = diagnose(7, output, target, [first, spoil(second.clone())], baseline=sparse, oracle=oracle_of(sparse))
    assert (finding.kind, finding.detail) == (kind, detail)
    assert finding.value == (pytest.approx(2, rel=1e-6) if kind == "scaled" else None)


def test_another_loss_is_recognised_in_a_part(case):
    output, target, (first, second) = tree(case)
    finding = diagnose(
        7, output, target, [first.sign() / first.numel(), second], baseline=sparse, oracle=oracle_of(sparse)
    )
    assert (finding.kind, finding.detail) == ("other loss", "L1, in output part reconstruction")


def test_a_right_gradient_of_a_tree_has_no_fault(case):
    output, target, right = tree(case)
    assert diagnose(7, output, target, right, baseline=sparse, oracle=oracle_of(sparse)) is None


def test_the_diagnostician_takes_trees(case):
    output, target, (first, second) = tree(case)
    diagnostician = Diagnostician(baseline=sparse, oracle=oracle_of(sparse))
    place = Place(step=3, epoch=0, batch=3, rows=12, audited=True, partial=False)
    diagnostician.look(place, output, target, [first, 2 * second], ratio=2.0)
    (finding,) = diagnostician.take_findings()
    assert (finding.step, finding.kind, finding.detail) == (3, "scaled", "in output part code")
    assert finding.kind in FINDING_KINDS


# Other losses, tried on some rows before they are tried on all


@pytest.fixture(scope="module")
def large():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(64, 20, generator=generator), torch.rand(64, 20, generator=generator)


def as_wrong(grad, output, target):
    exact = flat((2 * (output - target) / output.numel()).double().numpy())
    return WrongGradient(output, target, target, grad, flat(grad.double().numpy()), exact, None, None, 1e-6, 1e-6)


@pytest.mark.parametrize("name", _REGRESSION)
def test_no_loss_that_fits_is_lost_on_some_rows(large, name, monkeypatch):
    output, target = large
    grad = torch.from_numpy(gradient(_REGRESSION[name], output, target)).float()
    wrong = as_wrong(grad, output, target)
    found = _other_loss(wrong)
    assert found is not None and found.detail.startswith(name)
    monkeypatch.setattr(whole_rules, "_some_rows", lambda *_: None)
    assert _other_loss(wrong) == found


def test_a_fault_in_the_rows_that_are_not_tried_is_seen(large):
    output, target = large
    grad = torch.from_numpy(gradient(_REGRESSION["L1"], output, target)).float()
    grad[1] = 0  # every fourth row is tried
    assert _other_loss(as_wrong(grad, output, target)) is None


def test_few_of_the_other_losses_are_tried_on_all_rows(large, monkeypatch):
    output, target = large
    tried = []

    def counted(loss, *pair):
        tried.append(len(pair[0]))
        return gradient(loss, *pair)

    monkeypatch.setattr(whole_rules, "gradient", counted)
    assert _other_loss(as_wrong(torch.rand(64, 20), output, target)) is None
    assert tried and 64 not in tried
