"""What surrounds the made-up spine: skin fat, muscle, vessels, bowel, the canal and the arches."""

from dataclasses import dataclass

import numpy as np

from medseg.data.phantoms.anatomy import (
    CORTEX,
    FAT,
    LIGAMENT,
    Canvas,
    Column,
    Part,
    Segment,
    smooth,
)


@dataclass(frozen=True)
class Habit:
    """What differs between people besides the spine: lengths in mm, shares and signals to 1."""

    back_mm: float
    fat_mm: float
    infiltration: float
    muscle: float
    fluid: float
    vessels: tuple[float, float]
    organs: float
    scale: float


def habit(rng: np.random.Generator, depth_mm: float, *, scale: float) -> Habit:
    """Draw one for a field of view of this depth."""
    return Habit(
        back_mm=-depth_mm / 2 + rng.uniform(4, 14) * scale,
        fat_mm=rng.uniform(6, 24) * scale,
        infiltration=rng.uniform(0.0, 0.5),
        muscle=rng.uniform(0.42, 0.62),
        fluid=rng.uniform(0.4, 1.0),
        vessels=(rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9)),
        organs=rng.uniform(0.35, 0.8),
        scale=scale,
    )


def paint_surroundings(
    canvas: Canvas, spine: Column, *, person: Habit, rng: np.random.Generator
) -> None:
    """Paint everything but discs and bodies, outermost first."""
    _paint_back(canvas, spine, person, rng)
    _paint_belly(canvas, spine, person, rng)
    _paint_vessels(canvas, spine, person)
    for body in (*spine.sacrum[:1], *spine.bodies):
        _paint_arch(canvas, body, person)
    _paint_canal(canvas, spine, person, rng)


def _muscle(canvas: Canvas, person: Habit, rng: np.random.Generator) -> tuple[Part, Part]:
    """Muscle streaked with fat, more of it further down."""
    streaks = smooth(rng, canvas.shape, cells=(5, 16, 12)) * 0.45
    lower = np.linspace(0.15, -0.15, canvas.shape[2], dtype=np.float32)
    share = np.clip(streaks + lower + person.infiltration - 0.45, 0, 0.85)
    return person.muscle * (1 - share), 0.04 + 0.88 * share


def _paint_back(canvas: Canvas, spine: Column, person: Habit, rng: np.random.Generator) -> None:
    """Air, skin fat and the long muscles of the back."""
    _, ahead, _ = spine.line(canvas.z)
    hollow = 0.35 * (ahead - ahead.mean()) + 0.006 * (canvas.x - 2) ** 2
    skin = person.back_mm + hollow + 1.5 * smooth(rng, canvas.shape, cells=(3, 1, 6))
    depth = canvas.y - skin
    canvas.paint(canvas.inside(-depth), (0.35, 0.15))
    canvas.paint(canvas.inside(2.5 - depth), FAT)
    thickness = person.fat_mm * (1 + 0.2 * smooth(rng, canvas.shape, cells=(2, 1, 5)))
    canvas.paint(canvas.inside(thickness - 1.5 - depth), LIGAMENT)
    canvas.paint(canvas.inside(thickness - depth), _muscle(canvas, person, rng))


def _paint_belly(canvas: Canvas, spine: Column, person: Habit, rng: np.random.Generator) -> None:
    """Fat in front of the spine with bowel, gas, and a psoas on either side."""
    right, ahead, depth = spine.line(canvas.z)
    front = canvas.inside(ahead + 0.5 * depth - canvas.y)
    canvas.paint(front, FAT)
    beyond = canvas.inside(ahead + depth + 16 * person.scale - canvas.y)
    bowel = np.clip(2.5 * smooth(rng, canvas.shape, cells=(4, 9, 11)) + 0.6, 0, 1)
    wet = np.clip(person.organs + 0.25 * smooth(rng, canvas.shape, cells=(4, 8, 9)), 0.1, 1)
    canvas.paint(beyond * bowel, (wet, 0.06))
    gas = np.clip(3 * smooth(rng, canvas.shape, cells=(3, 7, 9)) - 3.6, 0, 1)
    canvas.paint(beyond * gas, (0.0, 0.0))
    psoas = _muscle(canvas, person, rng)
    for side in (-1, 1):
        across = (canvas.x - right - side * 37 * person.scale) / 15
        along = (canvas.y - ahead + 2) / 19
        canvas.paint(canvas.inside((np.hypot(across, along) - person.scale) * 16), psoas)


def _paint_vessels(canvas: Canvas, spine: Column, person: Habit) -> None:
    """Aorta and vena cava before the spine; they part at the fourth lumbar body."""
    right, ahead, depth = spine.line(canvas.z)
    fork = float(spine.bodies[1].centre[2])
    apart = np.clip((fork - canvas.z) * 0.35, 0, 40)
    for side, shift, wet in ((-1, 7.0, person.vessels[0]), (1, 12.0, person.vessels[1])):
        across = canvas.x - right - side * (shift * person.scale + apart)
        along = canvas.y - ahead - depth - 11 * person.scale
        distance = np.hypot(across, along) - 8.5 * person.scale
        canvas.paint(canvas.inside(distance - 1.2), LIGAMENT)
        canvas.paint(canvas.inside(distance), (wet, 0.02))


def _paint_arch(canvas: Canvas, body: Segment, person: Habit) -> None:
    """Pedicles, joints and the spinous process of one vertebra."""
    s, back = person.scale, body.half_depth
    height = min(body.half_height, 14 * s)
    low = body.centre[2] + height - body.half_height
    place, right, ahead, above = canvas.frame(body, 75 * s)
    above = above - np.float32(low - body.centre[2])
    water, fat = body.tissue
    parts = (
        (12.5 * s, -back - 4 * s, 0.3 * height, 5 * s, 9 * s, 6.5 * s),
        (14.0 * s, -back - 15 * s, -0.9 * height, 6.5 * s, 7 * s, 11 * s),
        (0.0, -back - 34 * s, -0.65 * height, 4.5 * s, 15 * s, 9 * s),
    )
    for aside, behind, up, half_x, half_y, half_z in parts:
        across = (np.abs(right) - aside) / half_x
        size = np.sqrt(across**2 + ((ahead - behind) / half_y) ** 2 + ((above - up) / half_z) ** 2)
        distance = (size - 1) * half_x
        canvas.paint(canvas.inside(distance - 0.8), CORTEX, place=place)
        canvas.paint(canvas.inside(distance + 0.8), (0.8 * water, 1.1 * fat), place=place)


def _paint_canal(canvas: Canvas, spine: Column, person: Habit, rng: np.random.Generator) -> None:
    """Fat, fluid, the cord down to the first lumbar body and the roots below it."""
    s = person.scale
    right, ahead, depth = spine.line(canvas.z)
    across = (canvas.x - right) / (11.5 * s)
    along = (canvas.y - ahead + depth + 9.5 * s) / (8.5 * s)
    distance = (np.hypot(across, along) - 1) * 8.5 * s
    canvas.paint(canvas.inside(distance - 1.0), LIGAMENT)
    canvas.paint(canvas.inside(distance), FAT)
    end = canvas.inside(float(spine.sacrum[1].centre[2]) - canvas.z)
    sac = (np.hypot(across * 1.15, (along - 0.12) * 1.25) - 1) * 6.8 * s
    fluid = canvas.inside(sac) * end
    roots = np.clip(0.35 * smooth(rng, canvas.shape, cells=(7, 24, 5)) + 0.25, 0, 0.7)
    wet = person.fluid * (1 - roots * np.clip(0.6 - along, 0, 1))
    canvas.paint(fluid, (wet, 0.01))
    conus = float(spine.bodies[4].centre[2] + rng.uniform(-10, 14) * s)
    thin = np.clip((canvas.z - conus) / (22 * s), 0, 1)
    cord = (np.hypot(across * 11.5 / 5.2, (along + 0.05) * 8.5 / 4.2) - thin) * 4.2 * s
    canvas.paint(canvas.inside(cord) * (thin > 0.2), (0.55, 0.02))
