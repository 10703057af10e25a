"""Several batches of a step: a change of any of them is seen, also when others have come since."""

import torch

from parity.observe.batch import Batches


def test_a_change_is_seen_of_the_batch_that_it_is_of():
    batches, given = Batches(), [(torch.ones(2, 3), torch.zeros(2)) for _ in range(3)]
    made = [batches.add(2, [torch.ones(2, 4)], output, target) for output, target in given]

    def changed():
        return [batches.changed(each) for each in made]

    assert changed() == [None, None, None]
    given[1][0][0, 0] = 2
    assert changed() == [None, "output", None]
    given[0][1][0] = 2
    given[2][1][0] = 2
    assert changed() == ["target", "output", "target"]
