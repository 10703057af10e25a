"""Outputs: a tensor, or a tree of tensors."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch

from parity.tasks.outputs import (
    describe,
    elements_of,
    is_tree,
    map_tensors,
    part_names,
    parts,
    rows_of,
    separated,
    tensors,
    with_parts,
)

TREE = {"code": torch.ones(4, 2), "labels": torch.arange(4), "heads": [torch.zeros(4), None, torch.zeros(4, 3)]}


def test_one_tensor_is_its_own_part():
    tensor = torch.ones(3, 2)
    assert not is_tree(tensor)
    assert parts(tensor) == tensors(tensor) == [tensor]
    assert part_names(tensor) == [None]
    assert (rows_of(tensor), elements_of(tensor)) == (3, 6)
    assert separated(tensor) is tensor


def test_the_parts_of_a_tree_are_its_floating_tensors_in_order():
    assert is_tree(TREE)
    assert part_names(TREE) == ["code", "heads.0", "heads.2"]
    assert [part.shape for part in parts(TREE)] == [(4, 2), (4,), (4, 3)]
    assert len(tensors(TREE)) == 4
    assert (rows_of(TREE), elements_of(TREE)) == (4, 24)


def test_names_of_a_tuple_are_its_places():
    assert part_names((torch.ones(1), torch.ones(1))) == ["0", "1"]


def test_mapping_keeps_what_is_not_a_tensor():
    doubled = map_tensors(lambda tensor: tensor * 2, TREE)
    assert doubled["heads"][1] is None and doubled["labels"].tolist() == [0, 2, 4, 6]
    assert torch.equal(doubled["code"], torch.full((4, 2), 2.0))


def test_parts_are_replaced_in_order():
    replaced = with_parts(TREE, [torch.zeros(1), torch.ones(1), torch.ones(2)])
    assert replaced["code"].tolist() == [0] and replaced["heads"][2].tolist() == [1, 1]
    assert replaced["labels"] is TREE["labels"]
    with pytest.raises(ValueError):
        with_parts(TREE, [torch.zeros(1)])


def test_separated_parts_have_gradients_of_their_own():
    code = torch.ones(2, requires_grad=True)
    model = code * 3
    output = separated((model * 2, model))  # the first is computed from the second
    (output[0].sum() + output[1].sum()).backward()
    assert [part.grad.tolist() for part in output] == [[1, 1], [1, 1]]
    assert code.grad is None


def test_descriptions():
    assert describe(TREE) == "{code: float32[4, 2], labels: int64[4], heads: (float32[4], NoneType, float32[4, 3])}"


class Named(OrderedDict):
    """A mapping of a class of its own, as transformers' outputs are."""


@dataclass(frozen=True)
class Result:
    logits: torch.Tensor
    hidden: Named
    note: str = "kept"


def test_mappings_and_dataclasses_of_their_own_classes_are_trees():
    result = Result(torch.ones(2, 3), Named(first=torch.zeros(2), second=None))
    assert part_names(result) == ["logits", "hidden.first"]
    doubled = map_tensors(lambda tensor: tensor + 1, (result, 7))
    assert isinstance(doubled[0], Result) and isinstance(doubled[0].hidden, Named)
    assert (doubled[0].note, doubled[1], doubled[0].hidden["second"]) == ("kept", 7, None)
    assert doubled[0].hidden["first"].tolist() == [1, 1] and result.hidden["first"].tolist() == [0, 0]
    assert with_parts(result, [torch.ones(1), torch.ones(2)]).hidden["first"].tolist() == [1, 1]
