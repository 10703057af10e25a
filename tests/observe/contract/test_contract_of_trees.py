"""The contract of losses whose output is a tree of tensors: (reconstruction, code), or a dict of parts."""

import pytest
import torch
import torch.nn.functional as F

from parity.observe.audit import oracle_of
from parity.observe.contract.checking import ITEMS, check_contract


def outputs():
    """Reconstruction float32[8, 5], code float32[8, 3], and the target float32[8, 5]."""
    generator = torch.Generator().manual_seed(3)
    return *(torch.rand(8, size, generator=generator) for size in (5, 3)), torch.rand(8, 5, generator=generator)


def sparse(output, target):
    """Mean squared error of the reconstruction, plus a penalty of large codes; the baseline."""
    reconstruction, code = output
    return F.mse_loss(reconstruction, target) + 0.1 * code.square().mean()


def held(candidate, baseline=sparse, pair=None):
    """Status and reason of each item, by name."""
    reconstruction, code, target = outputs()
    output, target = pair or ((reconstruction, code), target)
    items = check_contract(candidate, baseline, oracle_of(baseline), output, target)
    assert tuple(item.name for item in items) == ITEMS
    return {item.name: (item.status, item.reason) for item in items}


def having(status, items):
    return {name for name, (found, _) in items.items() if found == status}


class _Penalty(torch.autograd.Function):
    """Mean of squares; each fault is another backward."""

    @staticmethod
    def forward(ctx, code):
        ctx.save_for_backward(code)
        return code.square().mean()


def penalised(backward):
    """The baseline with another backward of its second term."""
    term = type("Planted", (_Penalty,), {"backward": staticmethod(backward)}).apply
    return lambda output, target: F.mse_loss(output[0], target) + 0.1 * term(output[1])


def _right(ctx):
    (code,) = ctx.saved_tensors
    return 2 * code / code.numel()


def changes_code(output, target):
    loss = sparse((output[0], output[1].clone()), target)
    output[1].data.zero_()
    return loss


def takes_code_out(output, target):
    return F.mse_loss(output["reconstruction"], target) + 0.1 * output.pop("code").square().mean()


def test_a_right_loss_of_a_tree_passes_the_contract():
    items = held(lambda output, target: (output[0] - target).square().mean() + 0.1 * output[1].pow(2).mean())
    assert having("passed", items) == set(ITEMS) - {"broadcast"}
    assert items["broadcast"] == ("not applicable", "the output or the target consists of several tensors")


def test_a_wrong_gradient_of_a_part_fails_the_value_and_the_part_is_named():
    items = held(penalised(lambda ctx, grad_output: 2 * grad_output * _right(ctx)))
    assert having("failed", items) == {"value", "gradcheck"}
    assert items["value"][1].startswith("the gradient is 100 % off in output part 1, rounding explains ")
    assert items["value"][1].endswith("; ratio 2")


@pytest.mark.parametrize(
    ("item", "loss", "reason"),
    [
        (
            "gradient",
            lambda output, target: F.mse_loss(output[0], target) + 0.1 * output[1].detach().square().mean(),
            "the loss has no gradient in output part 1, where the baseline has one",
        ),
        (
            "grad_output",
            penalised(lambda ctx, grad_output: 0.1 * _right(ctx)),
            "with a grad_output of 3 the gradient is ",
        ),
        ("mutation", changes_code, "changes its output in place; work on copies of its tensors"),
        (
            "NaN",
            lambda output, target: sparse((output[0], torch.where(output[1].isnan(), 0, output[1])), target),
            "hides a NaN in output part 1: the loss is ",
        ),
    ],
)
def test_a_fault_in_a_part_fails_its_item(item, loss, reason):
    items = held(loss)
    assert items[item][0] == "failed"
    assert items[item][1].startswith(reason)


def test_outputs_and_targets_may_be_dicts_with_labels_and_other_leaves():
    reconstruction, code, target = outputs()
    labels = torch.arange(8) % 3

    def both(output, target):
        parts = (
            F.mse_loss(output["reconstruction"], target["image"]),
            F.cross_entropy(output["heads"][0], target["label"]),
        )
        return parts[0] + parts[1] + output["variances"].log().square().mean()

    output = {"reconstruction": reconstruction, "heads": [code], "variances": 1 + code[:, 0], "name": "vae"}
    items = held(both, baseline=both, pair=(output, {"image": target, "label": labels}))
    assert not having("failed", items) and not having("limited", items)
    assert having("not applicable", items) == {"broadcast"}


def test_a_loss_that_takes_a_part_out_of_its_dict_changes_its_output():
    reconstruction, code, target = outputs()

    def keeping(output, target):
        return takes_code_out(dict(output), target)

    items = held(takes_code_out, baseline=keeping, pair=({"reconstruction": reconstruction, "code": code}, target))
    assert having("failed", items) == {"mutation"}


def test_a_tree_without_two_dimensions_cannot_be_transposed():
    reconstruction, code, target = outputs()
    items = held(sparse, pair=((reconstruction[:, 0], code[:, 0]), target[:, 0]))
    assert items["transposed"] == ("not applicable", "no part of the output has two dimensions")
    assert not having("failed", items)


def test_an_output_without_dimensions_does_not_stop_the_contract():
    def loss(output, target):
        return (output - target).square()

    items = held(loss, baseline=loss, pair=(torch.tensor(0.5), torch.tensor(0.2)))
    assert items["non-contiguous"] == ("not applicable", "the output has no dimension")
    assert items["repeatable"] == ("passed", "")
    assert not having("failed", items)
