"""Arrays that a long run makes once."""

from __future__ import annotations

import torch

from experiments.open_question.stored import stored


def test_a_stored_array_that_is_damaged_is_made_again(tmp_path):
    path, right = tmp_path / "maps-0.npy", torch.arange(6.0)
    stored(path, lambda: right)
    content = path.read_bytes()
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
        found = stored(path, lambda: right)
        assert found.dtype == right.dtype
        assert torch.equal(found, right)
    assert torch.equal(stored(path, lambda: torch.zeros(0)), right)
