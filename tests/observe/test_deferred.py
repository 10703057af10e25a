"""What devices compute is kept there in few places, and a tensor that is no longer like it was is refused."""

import pytest
import torch

from parity.observe.deferred import Slots
from parity.observe.device_sums import TensorSums, kinds_of, layout_of

CPU = torch.device("cpu")


def rooms(slots, taken):
    """The sizes of the chunks of which slots were taken."""
    return [len(chunk.slots) for chunk in dict.fromkeys(slot._chunk for slot in taken)]


def test_a_slot_for_each_step_in_chunks_that_grow():
    slots = Slots()
    taken = [slots.take([1, 2], CPU) for _ in range(100)]
    assert rooms(slots, taken) == [4, 8, 16, 32, 64]
    assert len({slot.out.data_ptr() for slot in taken}) == 100


def test_sets_of_tensors_that_alternate_share_no_slot_and_take_little_room():
    slots = Slots()
    taken = [slots.take([1] * (300 - step % 2), CPU) for step in range(40)]
    assert rooms(slots, taken) == [4, 4, 8, 8, 16, 16]
    assert len({slot.out.data_ptr() for slot in taken}) == 40


def test_sets_that_come_once_each_have_a_small_chunk():
    slots = Slots()
    taken = [slots.take([step], CPU) for step in range(100)]
    assert rooms(slots, taken) == [4] * 100
    assert len(slots._chunks) <= 16


def test_a_chunk_that_was_fetched_is_not_written_to_again_and_grows_only_when_it_was_full():
    slots = Slots()
    first = slots.take([1], CPU)
    assert first.get().digests.shape == (1,)
    second = slots.take([1], CPU)
    assert rooms(slots, [first, second]) == [4, 4]


@pytest.mark.parametrize("now", [torch.zeros(8), torch.zeros(4, dtype=torch.float64), torch.zeros(2)])
def test_a_parameter_that_takes_other_memory_than_before_is_refused_before_anything_is_written(now):
    pytest.importorskip("triton", reason="Triton comes with torch for CUDA only")
    with pytest.raises(ValueError, match="another shape, dtype or device than in the step before"):
        sums = TensorSums(layout_of(CPU, kinds_of([now])), summed=True)
        sums.take([now], torch.zeros((1, 12), dtype=torch.int64), [torch.zeros(4)])
