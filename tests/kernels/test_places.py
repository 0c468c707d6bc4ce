"""Places in a block against PyTorch's own comparison."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tide_lightning.kernels.places import above, ascending, in_whole


@settings(max_examples=80, deadline=None)
@given(
    num_tokens=st.integers(0, 9),
    num_latents=st.integers(1, 70),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    by=st.sampled_from(["number", "scalar", "token", "latent"]),
    seed=st.integers(0, 99),
)
def test_above_finds_what_is_greater(num_tokens: int, num_latents: int, dtype: torch.dtype, by: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(num_tokens, num_latents, generator=generator).to(dtype)
    shape = {"number": (), "scalar": (), "token": (num_tokens, 1), "latent": (num_latents,)}[by]
    drawn = torch.randn(shape, generator=generator)
    floor = float(drawn) if by == "number" else drawn
    places = above(pre, floor)
    assert places.dtype == torch.int64
    assert torch.equal(places, (pre > floor).flatten().nonzero().squeeze(1))


def test_above_in_part_of_a_wider_block() -> None:
    joined = torch.arange(64.0).view(4, 16)
    pre = joined[:, 8:]
    assert above(pre, 58.0).tolist() == [27, 28, 29, 30, 31]


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1.0])
def test_above_leaves_out_what_is_not_greater(value: float) -> None:
    assert above(torch.full((8, 8), value), 1.0).numel() == 0


def test_infinity_is_above_every_number() -> None:
    assert above(torch.full((2, 4), float("inf")), 1e30).tolist() == list(range(8))


@given(st.sets(st.integers(0, 40)))
def test_ascending_puts_positions_in_order(positions: set[int]) -> None:
    shuffled = torch.tensor(list(positions), dtype=torch.int64)
    assert ascending(shuffled, 41).tolist() == sorted(positions)


def test_in_whole_counts_from_the_beginning() -> None:
    whole = torch.arange(7 * 12).view(7, 12)
    block = whole[2:5, 3:8]
    assert torch.equal(in_whole(torch.arange(15), 5, 2, 3, 12), block.flatten())
