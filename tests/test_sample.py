"""A batch stacks samples and moves as one."""

import numpy as np
import pytest
import torch

from medseg.geometry.grid import Grid
from medseg.sample import Sample, collate


def test_collate_stacks_and_keeps_names_and_presence():
    items = [
        (
            torch.full((2, 4, 4), float(i)),
            torch.full((4, 4), i),
            f"case-{i}",
            torch.tensor([True, i > 0]),
        )
        for i in range(3)
    ]
    batch = collate(items)
    assert batch.image.shape == (3, 2, 4, 4)
    assert batch.ids == ("case-0", "case-1", "case-2")
    assert batch.present.tolist() == [[True, False], [True, True], [True, True]]
    assert batch.target is not None
    assert batch.to("cpu").target.dtype == torch.int64


def test_a_sample_is_frozen_and_copied_by_with():
    sample = Sample("a", np.zeros((1, 2, 2, 2), np.float32), Grid((2, 2, 2), np.eye(4)), ("t1",))
    with pytest.raises(AttributeError):
        sample.id = "b"
    assert sample.with_(id="b").id == "b"
