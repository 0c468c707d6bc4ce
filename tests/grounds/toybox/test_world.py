import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tide_lightning.grounds.toybox.factors import ABSENT, FACTORS, OBJECT_FACTORS, is_held_out
from tide_lightning.grounds.toybox.world import SPLIT_START, Split, draw_scenes, uniforms


@given(seed=st.integers(0, 2**40), start=st.integers(0, 2**33), cut=st.integers(1, 15))
@settings(max_examples=30, deadline=None)
def test_a_scene_does_not_depend_on_its_batch(seed: int, start: int, cut: int) -> None:
    index = torch.arange(start, start + 16)
    whole = draw_scenes("train", index, seed)
    first, second = draw_scenes("train", index[:cut], seed), draw_scenes("train", index[cut:], seed)
    for all_at_once, a, b in zip(whole, first, second, strict=True):
        for x, y, z in zip(all_at_once, a, b, strict=True):
            torch.testing.assert_close(x, torch.cat([y, z]), rtol=0, atol=0)


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    u = uniforms(3, torch.arange(20_000), 4)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    torch.testing.assert_close(u.mean(0), torch.full((4,), 0.5), rtol=0, atol=0.01)
    torch.testing.assert_close(u.var(0), torch.full((4,), 1 / 12), rtol=0, atol=0.003)
    other = uniforms(4, torch.arange(20_000), 4)
    together = torch.corrcoef(torch.cat([u, other], 1).T)
    assert float((together - torch.eye(8)).abs().max()) < 0.03


def test_held_out_pairs_are_seen_in_the_test_split_only() -> None:
    def held_out(split: Split) -> int:
        labels, _ = draw_scenes(split, torch.arange(4000))
        pairs = zip(labels.shape.flatten().tolist(), labels.colour.flatten().tolist(), strict=True)
        return sum(shape != ABSENT and is_held_out(shape, colour) for shape, colour in pairs)

    assert held_out("train") == held_out("validation") == 0
    assert held_out("test") > 300


def test_every_value_of_every_factor_occurs_about_equally() -> None:
    labels, _ = draw_scenes("test", torch.arange(8000))
    alone = labels.take(labels.num_objects == 1)
    for name, values in FACTORS.items():
        label = getattr(alone, name)
        label = label[:, 0] if name in OBJECT_FACTORS else label
        share = torch.bincount(label, minlength=len(values)) / len(label) * len(values)
        assert (share - 1).abs().max() < 0.15, name
    assert 0.12 < float((labels.num_objects == 2).float().mean()) < 0.18


def test_two_objects_do_not_touch() -> None:
    labels, layout = draw_scenes("train", torch.arange(20_000))
    two = labels.num_objects == 2
    gap = torch.hypot(*(p[two].diff(dim=1).squeeze(1) for p in (layout.x_BO, layout.z_BO)))
    # A cube is the widest shape: its corner reaches 0.8 * sqrt(2) radii from its axis.
    assert bool((gap > layout.radius_BO[two].sum(1) * 0.8).all())
    assert bool((labels.place[two][:, 0] != labels.place[two][:, 1]).all())


def test_splits_have_ranges_of_their_own() -> None:
    starts = sorted(SPLIT_START.values())
    assert len(set(starts)) == len(starts)
    assert all(b - a >= 2**30 for a, b in itertools.pairwise(starts))
    images = {s: draw_scenes(s, torch.arange(50))[1].x_BO for s in ("train", "validation")}
    assert not torch.equal(images["train"], images["validation"])
