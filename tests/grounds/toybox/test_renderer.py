import pytest
import torch

from tide_lightning.grounds.toybox import FACTORS, Labels, Rendered, render
from tide_lightning.grounds.toybox.renderer import CAMERA, render_scenes
from tide_lightning.grounds.toybox.world import draw_layout


def scene(**factors: str) -> Rendered:
    """One scene of your own: factor values by name."""
    values = {"shape": "sphere", "colour": "red", "size": "large", "place": "centre", "distance": "near"}
    values |= {"wall": "mint", "light": "left"} | factors
    index = {name: FACTORS[name].index(value) for name, value in values.items()}
    objects = {name: torch.tensor([[index[name], -1]]) for name in Labels._fields[:5]}
    labels = Labels(**objects, wall=torch.tensor([index["wall"]]), light=torch.tensor([index["light"]]))
    return render_scenes(labels, draw_layout(labels, torch.tensor([0])))


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render(torch.arange(48))


def test_shapes_and_ranges(rendered: Rendered) -> None:
    assert rendered.image.shape == (48, 3, 64, 64)
    assert rendered.masks.shape == (48, 2, 64, 64)
    assert rendered.image.abs().max() <= 1
    assert rendered.masks.min() >= 0
    assert rendered.masks.max() <= 1
    torch.testing.assert_close(rendered.normals.norm(dim=1), torch.ones(48, 64, 64))
    assert rendered.depth.isfinite().all()
    assert rendered.depth.min() > 2


def test_the_same_scene_alone_and_in_a_batch(rendered: Rendered) -> None:
    alone = render(torch.tensor([37]))
    torch.testing.assert_close(alone.image[0], rendered.image[37], rtol=0, atol=2e-6)
    torch.testing.assert_close(alone.depth[0], rendered.depth[37], rtol=0, atol=2e-5)
    assert not torch.equal(render(torch.tensor([37]), seed=1).image[0], rendered.image[37])


def test_masks_show_each_object_and_nothing_where_there_is_none(rendered: Rendered) -> None:
    area = rendered.masks.sum((2, 3))
    there = rendered.labels.shape >= 0
    assert bool((area[there] > 25).all())
    assert bool((area[~there] == 0).all())
    assert rendered.masks.sum(1).max() <= 1 + 1e-6


def test_masks_are_anti_aliased(rendered: Rendered) -> None:
    partial = (rendered.masks > 0.01) & (rendered.masks < 0.99)
    assert partial.any((2, 3)).sum() == (rendered.labels.shape >= 0).sum()


def test_the_light_side_decides_which_half_is_bright() -> None:
    halves = {}
    for side in FACTORS["light"]:
        one = scene(light=side, colour="white")
        weight = one.masks[0, 0]
        bright = one.image[0].mean(0)
        columns = torch.arange(64).expand(64, 64)
        middle = float((columns * weight).sum() / weight.sum())
        left, right = weight * (columns < middle), weight * (columns >= middle)
        halves[side] = float((bright * left).sum() / left.sum() - (bright * right).sum() / right.sum())
    assert halves["left"] > 0.2
    assert halves["right"] < -0.2


def test_a_shadow_falls_away_from_the_light() -> None:
    for side, columns in (("left", slice(38, 64)), ("right", slice(0, 26))):
        one = scene(light=side)
        floor = (one.normals[0, 1] > 0.99) & (one.masks[0].sum(0) == 0)
        brightness = one.image[0].mean(0)
        lit = brightness[floor].median()
        shadow = floor & (brightness < lit - 0.3)
        assert shadow.sum() > 15
        assert shadow[:, columns].sum() > 0.6 * shadow.sum()


@pytest.mark.parametrize(("name", "low", "high"), [("size", "small", "large"), ("distance", "far", "near")])
def test_large_and_near_objects_fill_more_of_the_frame(name: str, low: str, high: str) -> None:
    area = [float(scene(**{name: value}).masks.sum()) for value in (low, high)]
    assert area[1] > 1.4 * area[0]


def test_places_and_depth_agree_with_the_labels() -> None:
    columns = torch.arange(64.0)
    centre = [
        float((scene(place=place).masks[0, 0].sum(0) * columns).sum() / scene(place=place).masks.sum())
        for place in FACTORS["place"]
    ]
    assert centre[0] < 24 < 28 < centre[1] < 36 < 40 < centre[2]
    near, far = (scene(distance=d) for d in ("near", "far"))
    depth = [float(r.depth[0][r.masks[0, 0] > 0.99].mean()) for r in (near, far)]
    assert depth[1] > depth[0] + 0.8
    assert near.depth.max() < 12
    assert CAMERA[1] > 0


@pytest.mark.parametrize("colour", FACTORS["colour"])
def test_colours_stay_apart_under_shading(colour: str) -> None:
    """Each lit pixel of an object is nearer in hue and value to its own colour than to the others."""
    from tide_lightning.grounds.toybox.renderer import COLOUR_RGB

    one = scene(colour=colour)
    inner = one.masks[0, 0] > 0.99
    pixels = (one.image[0][:, inner] / 2 + 0.5).T
    brightest = pixels[pixels.sum(1) >= pixels.sum(1).quantile(0.7)].mean(0)
    palette = torch.tensor(COLOUR_RGB)
    nearest = (palette - brightest).square().sum(1).argmin()
    assert FACTORS["colour"][int(nearest)] == colour
