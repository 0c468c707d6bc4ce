"""The camera: scenes to images, depth, normals and masks, by vectorised ray casting.

Shape suffixes: B scenes, R rays of one image, O object slots, N rays that pass near some object, H/W pixels.
Only rays that cross an object's bounding sphere are intersected, as one flat list a shape; everything
behind the objects (floor, wall) is the same for all scenes and computed once.
"""

from functools import lru_cache
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tide_lightning.grounds.toybox.factors import ABSENT, SHAPES, Labels
from tide_lightning.grounds.toybox.geometry import BOUND_HEIGHT, BOUND_RADIUS, INTERSECT
from tide_lightning.grounds.toybox.world import Layout, Split, draw_scenes

RESOLUTION: Final = 64
CAMERA: Final = (0.0, 2.1, -4.3)
TARGET: Final = (0.0, 0.62, 0.2)
HALF_WIDTH: Final = 0.49  # tangent of half the field of view
WALL_Z: Final = 2.1
AMBIENT: Final = 0.42
FLOOR_RGB: Final = (0.66, 0.62, 0.57)
COLOUR_RGB: Final = (
    (0.90, 0.10, 0.08),  # red
    (0.98, 0.85, 0.05),  # yellow
    (0.10, 0.62, 0.12),  # green
    (0.05, 0.85, 0.90),  # cyan
    (0.10, 0.20, 0.92),  # blue
    (0.66, 0.12, 0.82),  # purple
    (1.00, 1.00, 1.00),  # white
    (0.06, 0.06, 0.07),  # black
)
WALL_RGB: Final = (
    (1.20, 0.80, 0.62),  # peach
    (0.62, 1.00, 0.72),  # mint
    (0.60, 0.82, 1.20),  # sky
    (0.42, 0.42, 0.50),  # slate
)
# A rotated grid: four samples that give edges near the axes four grey levels instead of two.
SAMPLES: Final = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))
_CHUNK: Final = 32  # scenes at a time: the working set stays in the cache


class Rendered(NamedTuple):
    """A batch of scenes as seen by the camera; every map is averaged over the pixel's samples."""

    image: Tensor  # [B, 3, H, W] in [-1, 1]
    depth: Tensor  # [B, H, W], distance from the camera along the ray, world units
    normals: Tensor  # [B, 3, H, W], unit length, in world axes
    masks: Tensor  # [B, 2, H, W], visible share of the pixel for each object slot
    labels: Labels


class _Background(NamedTuple):
    origin_3: Tensor
    direction_R3: Tensor
    t_R: Tensor
    normal_R3: Tensor
    on_wall_R: Tensor


@lru_cache(maxsize=4)
def _background(device: torch.device) -> _Background:
    """Camera rays and what they meet in an empty room."""
    origin, target = torch.tensor(CAMERA), torch.tensor(TARGET)
    forward = normalize(target - origin, dim=0)
    right = normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), forward), dim=0)
    up = torch.linalg.cross(forward, right)
    row, column = torch.meshgrid(torch.arange(RESOLUTION), torch.arange(RESOLUTION), indexing="ij")
    pixel_HW2 = torch.stack([column, row], -1) + 0.5
    pixel_R2 = (torch.tensor(SAMPLES)[:, None, None] + pixel_HW2).reshape(-1, 2)
    u, v = (pixel_R2 / RESOLUTION * 2 - 1).mul(HALF_WIDTH).unbind(-1)
    direction = normalize(forward + u[:, None] * right - v[:, None] * up, dim=-1)
    floor = torch.where(direction[:, 1] < 0, -origin[1] / direction[:, 1], torch.inf)
    wall = torch.where(direction[:, 2] > 0, (WALL_Z - origin[2]) / direction[:, 2], torch.inf)
    on_wall = wall < floor
    normal = torch.where(on_wall[:, None], torch.tensor([0.0, 0.0, -1.0]), torch.tensor([0.0, 1.0, 0.0]))
    parts = origin, direction, torch.minimum(floor, wall), normal, on_wall
    return _Background(*(part.to(device) for part in parts))


def render_scenes(labels: Labels, layout: Layout) -> Rendered:
    """Render scenes of your own making; `render` draws them by number."""
    parts = [
        _render_chunk(
            labels.take(slice(start, start + _CHUNK)),
            Layout(*(field[start : start + _CHUNK] for field in layout)),
        )
        for start in range(0, len(labels.wall), _CHUNK)
    ]
    image, depth, normals, masks = (torch.cat(maps) for maps in zip(*parts, strict=True))
    return Rendered(image, depth, normals, masks, labels)


def render(index_B: Tensor, *, split: Split = "train", seed: int = 0, device: str = "cpu") -> Rendered:
    """Render scenes by number: scene i of a seed and split is the same whatever the batch."""
    return render_scenes(*draw_scenes(split, index_B.to(device), seed))


def _render_chunk(labels: Labels, layout: Layout) -> tuple[Tensor, ...]:
    room = _background(layout.x_BO.device)
    num_scenes, num_rays = len(labels.wall), len(room.t_R)
    t_BR = room.t_R.repeat(num_scenes, 1)
    normal_BR3 = room.normal_R3.repeat(num_scenes, 1, 1)
    slot_BR = torch.full((num_scenes, num_rays), ABSENT, device=t_BR.device)
    albedo_BR3 = _room_albedo(labels, room)
    origin_BR3 = room.origin_3.expand(num_scenes, num_rays, 3)
    direction_BR3 = room.direction_R3.expand(num_scenes, num_rays, 3)
    palette = torch.tensor(COLOUR_RGB, device=t_BR.device)
    for slot in range(labels.shape.shape[1]):
        rgb_B3 = palette[labels.colour[:, slot].clamp(min=0)] * layout.tint_BO[:, slot, None]
        for scene_N, ray_N, t_N, normal_N3 in _hits(labels, layout, slot, origin_BR3, direction_BR3):
            nearer = t_N < t_BR[scene_N, ray_N]
            where = scene_N[nearer], ray_N[nearer]
            t_BR[where] = t_N[nearer]
            normal_BR3[where] = normalize(normal_N3[nearer], dim=-1)
            slot_BR[where] = slot
            albedo_BR3[where] = rgb_B3[where[0]]

    point_BR3 = room.origin_3 + t_BR[..., None] * room.direction_R3 + 1e-3 * normal_BR3
    lit_BR = _dot(normal_BR3, layout.to_light_B3[:, None]).clamp_(min=0)
    light_BR3 = layout.to_light_B3[:, None].expand(-1, num_rays, -1)
    for slot in range(labels.shape.shape[1]):
        for scene_N, ray_N, t_N, _ in _hits(labels, layout, slot, point_BR3, light_BR3):
            shaded = t_N.isfinite()
            lit_BR[scene_N[shaded], ray_N[shaded]] = 0
    # A little more ambient light from above than from below keeps unlit sides from looking flat.
    ambient_BR = AMBIENT * (0.9 + 0.25 * normal_BR3[..., 1])
    colour_BR3 = albedo_BR3 * (ambient_BR + 0.72 * lit_BR)[..., None]
    slots = torch.arange(labels.shape.shape[1], device=t_BR.device)
    return (
        _to_pixels(colour_BR3.clamp(0, 1)).permute(0, 3, 1, 2) * 2 - 1,
        _to_pixels(t_BR[..., None]).squeeze(-1),
        normalize(_to_pixels(normal_BR3).permute(0, 3, 1, 2), dim=1),
        _to_pixels((slot_BR[..., None] == slots).float()).permute(0, 3, 1, 2),
    )


def _room_albedo(labels: Labels, room: _Background) -> Tensor:
    wall_B3 = torch.tensor(WALL_RGB, device=room.t_R.device)[labels.wall]
    floor_3 = torch.tensor(FLOOR_RGB, device=room.t_R.device)
    return torch.where(room.on_wall_R[:, None], wall_B3[:, None], floor_3)


def _to_pixels(value_BRC: Tensor) -> Tensor:
    """Average the samples of each pixel: [B, R, C] -> [B, H, W, C]."""
    num_scenes, _, channels = value_BRC.shape
    return value_BRC.view(num_scenes, len(SAMPLES), RESOLUTION, RESOLUTION, channels).mean(1)


def _hits(
    labels: Labels, layout: Layout, slot: int, origin_BR3: Tensor, direction_BR3: Tensor
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Intersections with the objects of one slot, a (scene, ray, t, world normal) tuple a shape."""
    found = []
    for shape in range(len(SHAPES)):
        scene_B = torch.nonzero(labels.shape[:, slot] == shape).squeeze(1)
        if len(scene_B) == 0:
            continue
        radius_B, yaw_B = layout.radius_BO[scene_B, slot], layout.yaw_BO[scene_B, slot]
        base_B3 = torch.stack([layout.x_BO[scene_B, slot], torch.zeros_like(radius_B), layout.z_BO[scene_B, slot]], -1)
        centre_B3 = base_B3.clone()
        centre_B3[:, 1] = BOUND_HEIGHT * radius_B
        to_centre_BR3 = centre_B3[:, None] - origin_BR3[scene_B]
        along_BR = _dot(to_centre_BR3, direction_BR3[scene_B])
        reach_B1 = (BOUND_RADIUS * radius_B)[:, None]
        near_BR = _dot(to_centre_BR3, to_centre_BR3) - along_BR * along_BR < reach_B1**2
        which_N, ray_N = torch.nonzero(near_BR & (along_BR > -reach_B1), as_tuple=True)
        scene_N = scene_B[which_N]
        cos_N, sin_N = yaw_B[which_N].cos(), yaw_B[which_N].sin()
        scale_N1 = radius_B[which_N, None]
        o_N3 = _turn((origin_BR3[scene_N, ray_N] - base_B3[which_N]) / scale_N1, cos_N, sin_N)
        d_N3 = _turn(direction_BR3[scene_N, ray_N] / scale_N1, cos_N, sin_N)
        t_N, normal_N3 = INTERSECT[shape](o_N3, d_N3)
        found.append((scene_N, ray_N, t_N, _turn(normal_N3, cos_N, -sin_N)))
    return found


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Dot products along the last axis; three products are faster than a reduction over three."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _turn(v_N3: Tensor, cos_N: Tensor, sin_N: Tensor) -> Tensor:
    """Rotate about the vertical axis."""
    x, y, z = v_N3.unbind(-1)
    return torch.stack([cos_N * x - sin_N * z, y, sin_N * x + cos_N * z], -1)
