"""Closed-form intersections against a dense march through an inside test."""

import math

import pytest
import torch
from torch import Tensor

from tide_lightning.grounds.toybox import geometry as g
from tide_lightning.grounds.toybox.factors import SHAPES


def inside(shape: str, p: Tensor) -> Tensor:
    x, y, z = p.unbind(-1)
    if shape == "sphere":
        return x**2 + (y - 1) ** 2 + z**2 < 1
    if shape == "cube":
        return torch.stack([x, y - g.CUBE_HALF, z], -1).abs().amax(-1) < g.CUBE_HALF
    if shape == "cylinder":
        return (x**2 + z**2 < g.CYLINDER_RADIUS**2) & (y > 0) & (y < g.CYLINDER_HEIGHT)
    if shape == "cone":
        radius = g.CONE_RADIUS * (1 - y / g.CONE_HEIGHT)
        return (x**2 + z**2 < radius.clamp(min=0) ** 2) & (y > 0) & (y < g.CONE_HEIGHT)
    r2 = x**2 + (y - 1) ** 2
    return (r2 < 1) & (r2 > g.RING_INNER**2) & (z.abs() < g.RING_HALF_WIDTH)


@pytest.mark.parametrize("shape", SHAPES)
def test_first_hit_is_where_the_march_enters(shape: str) -> None:
    torch.manual_seed(0)
    origin = torch.nn.functional.normalize(torch.randn(3000, 3), dim=-1) * 4
    origin[:, 1] = origin[:, 1].abs() + 0.2
    target = torch.rand(3000, 3) * torch.tensor([2.0, 2.0, 2.0]) - torch.tensor([1.0, 0.0, 1.0])
    direction = torch.nn.functional.normalize(target - origin, dim=-1)
    t, normal = g.INTERSECT[SHAPES.index(shape)](origin, direction)
    steps = torch.linspace(0, 8, 1601)
    march = inside(shape, origin[:, None] + steps[:, None] * direction[:, None])
    hits = march.any(1)
    entered = steps[march.int().argmax(1)]
    close = (t - entered).abs() < 0.006
    # Rays that graze an edge are hit by one method and missed by the other.
    assert float((hits == t.isfinite()).float().mean()) > 0.985
    both = hits & t.isfinite()
    assert float(both.float().mean()) > 0.2
    assert float(close[both].float().mean()) > 0.985
    assert bool(((normal * direction).sum(-1)[both] <= 1e-4).all()), "normals look at the viewer"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bounding_sphere_contains_the_shape(shape: str) -> None:
    points = torch.rand(200_000, 3) * torch.tensor([3.0, 3.0, 3.0]) - torch.tensor([1.5, 0.0, 1.5])
    points = points[inside(shape, points)]
    assert len(points) > 100
    centre = torch.tensor([0.0, g.BOUND_HEIGHT, 0.0])
    assert float((points - centre).norm(dim=-1).max()) <= g.BOUND_RADIUS + 1e-4


def test_one_looks_through_the_ring() -> None:
    origin = torch.tensor([[0.0, 1.0, -4.0], [0.75, 1.0, -4.0]])
    direction = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    t, normal = g.ring(origin, direction)
    assert t[0] == math.inf
    assert t[1] == pytest.approx(4 - g.RING_HALF_WIDTH)
    assert normal[1].tolist() == [0.0, 0.0, -1.0]
