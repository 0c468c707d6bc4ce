"""Where a ray meets a shape, in closed form.

Every shape stands on the floor y = 0 of its own frame, scaled so that it is about 2 wide and 2 high.
N rays with origin o_N3 and direction d_N3 (any length); the answer is the ray parameter t_N (infinite where
it misses) and the outward normal n_N3 in the shape's frame.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

Hit = tuple[Tensor, Tensor]

BOUND_HEIGHT: Final = 0.85
BOUND_RADIUS: Final = 1.42
"""A sphere at this height with this radius contains every shape."""

CUBE_HALF: Final = 0.8
CYLINDER_RADIUS: Final = 0.75
CYLINDER_HEIGHT: Final = 1.7
CONE_RADIUS: Final = 0.98
CONE_HEIGHT: Final = 2.0
RING_INNER: Final = 0.5
RING_HALF_WIDTH: Final = 0.3

_TINY: Final = 1e-9
_INF: Final = float("inf")


def _safe(d: Tensor) -> Tensor:
    """A direction component that can be divided by."""
    return torch.where(d.abs() < _TINY, _TINY / 2, d)


def _slab(o: Tensor, d: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The interval of t in which one coordinate lies between two planes."""
    d = _safe(d)
    a, b = (low - o) / d, (high - o) / d
    return torch.minimum(a, b), torch.maximum(a, b)


def _roots(a: Tensor, half_b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of a t^2 + 2 half_b t + c in order, or an empty interval (inf, -inf) where there are none."""
    discriminant = half_b * half_b - a * c
    root = discriminant.clamp(min=0).sqrt()
    a = _safe(a)
    near, far = (-half_b - root) / a, (-half_b + root) / a
    # Along an axis a vanishes: such a ray is inside for ever or never.
    along = (a.abs() < _TINY) & (half_b.abs() < _TINY)
    inside = along & (c < 0)
    none = ~inside & (along | (discriminant <= 0))
    low = torch.minimum(near, far).masked_fill(none, _INF).masked_fill(inside, -_INF)
    high = torch.maximum(near, far).masked_fill(none, -_INF).masked_fill(inside, _INF)
    return low, high


def _keep(t: Tensor, end: Tensor) -> Tensor:
    """T where a convex body is entered ahead of the ray's origin."""
    return torch.where((t > 0) & (t < end), t, _INF)


def sphere(o_N3: Tensor, d_N3: Tensor) -> Hit:
    """The unit sphere that touches the floor."""
    o = o_N3 - o_N3.new_tensor([0.0, 1.0, 0.0])
    near, far = _roots((d_N3 * d_N3).sum(-1), (o * d_N3).sum(-1), (o * o).sum(-1) - 1)
    t = _keep(near, far)
    return t, _at(o, d_N3, t)


def cube(o_N3: Tensor, d_N3: Tensor) -> Hit:
    """A cube of half edge CUBE_HALF."""
    o = o_N3 - o_N3.new_tensor([0.0, CUBE_HALF, 0.0])
    near, far = _slab(o, d_N3, -CUBE_HALF, CUBE_HALF)
    entry, axis = near.max(-1)
    t = _keep(entry, far.amin(-1))
    normal = torch.nn.functional.one_hot(axis, 3).to(o) * -d_N3.sign()
    return t, normal


def cylinder(o_N3: Tensor, d_N3: Tensor) -> Hit:
    """An upright cylinder with a lid."""
    (ox, oy, oz), (dx, dy, dz) = o_N3.unbind(-1), d_N3.unbind(-1)
    side, side_end = _roots(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - CYLINDER_RADIUS**2)
    lid, lid_end = _slab(oy, dy, 0.0, CYLINDER_HEIGHT)
    t = _keep(torch.maximum(side, lid), torch.minimum(side_end, lid_end))
    point = _at(o_N3, d_N3, t)
    round_normal = point * point.new_tensor([1.0, 0.0, 1.0]) / CYLINDER_RADIUS
    flat_normal = torch.stack([torch.zeros_like(dy), -dy.sign(), torch.zeros_like(dy)], -1)
    return t, torch.where((side > lid)[:, None], round_normal, flat_normal)


def cone(o_N3: Tensor, d_N3: Tensor) -> Hit:
    """An upright cone: x^2 + z^2 = (slope (height - y))^2 between the floor and its tip."""
    slope = CONE_RADIUS / CONE_HEIGHT
    (ox, oy, oz), (dx, dy, dz) = o_N3.unbind(-1), d_N3.unbind(-1)
    below_tip = CONE_HEIGHT - oy
    a = dx * dx + dz * dz - (slope * dy) ** 2
    half_b = ox * dx + oz * dz + slope * slope * below_tip * dy
    c = ox * ox + oz * oz - (slope * below_tip) ** 2
    near, far = _roots(a, half_b, c)
    # The quadric is a double cone: a root counts only between the floor and the tip.
    side = torch.full_like(near, _INF)
    for root in (far, near):
        height = oy + root * dy
        side = torch.where((root > 0) & (height >= 0) & (height <= CONE_HEIGHT), root, side)
    base = -oy / _safe(dy)
    reach = (ox + base * dx) ** 2 + (oz + base * dz) ** 2
    base = torch.where((base > 0) & (reach < CONE_RADIUS**2), base, _INF)
    t = torch.minimum(side, base)
    x, y, z = _at(o_N3, d_N3, t).unbind(-1)
    round_normal = torch.stack([x, slope * slope * (CONE_HEIGHT - y), z], -1)
    down = torch.tensor([0.0, -1.0, 0.0], device=t.device)
    return t, torch.where((side < base)[:, None], round_normal, down)


def ring(o_N3: Tensor, d_N3: Tensor) -> Hit:
    """A flat ring standing on its rim, its axis along z: a disc minus a smaller disc."""
    o = o_N3 - o_N3.new_tensor([0.0, 1.0, 0.0])
    (ox, oy, oz), (dx, dy, dz) = o.unbind(-1), d_N3.unbind(-1)
    a, half_b, c = dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy
    rim, rim_end = _roots(a, half_b, c - 1)
    face, face_end = _slab(oz, dz, -RING_HALF_WIDTH, RING_HALF_WIDTH)
    hole, hole_end = _roots(a, half_b, c - RING_INNER**2)
    entry, leave = torch.maximum(rim, face), torch.minimum(rim_end, face_end)
    start = entry.clamp(min=0)
    in_hole = (hole < start) & (start < hole_end)
    t = torch.where(in_hole, hole_end, torch.where(entry > 0, entry, _INF))
    t = torch.where((start < leave) & (t < leave), t, _INF)
    x, y, _ = _at(o, d_N3, t).unbind(-1)
    zero = torch.zeros_like(x)
    flat = torch.stack([zero, zero, -dz.sign()], -1)
    outward = torch.stack([x, y, zero], -1)
    round_normal = torch.where(in_hole[:, None], -outward, outward)
    return t, torch.where(((face > rim) & ~in_hole)[:, None], flat, round_normal)


def _at(o_N3: Tensor, d_N3: Tensor, t_N: Tensor) -> Tensor:
    """The point at t; misses give the origin, so that no infinity spreads into normals."""
    return o_N3 + torch.where(t_N.isfinite(), t_N, 0.0)[:, None] * d_N3


INTERSECT: Final[tuple[Callable[[Tensor, Tensor], Hit], ...]] = (
    sphere,
    cube,
    cone,
    cylinder,
    ring,
)
"""In the order of `SHAPES`."""
