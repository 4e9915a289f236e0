"""The offline demo world: pictures of coloured shapes whose labels are known exactly.

Eight shapes in eight colours are 64 labels (`red-circle`, "red circle"). A picture holds one to five objects of
random size, rotation and place on a muted background; objects may overlap, but none hides most of another. Everything
is drawn from a seed: the same seed gives the same pictures, so a demo and a test need no download.

Shape legend (every shape is mirror-symmetric, so a flipped picture keeps its labels; radius 1 means the half-size of
the box it is drawn in):

    circle    a filled disc                         cross   a plus of equal arms
    square    four equal sides                      ring    a disc with a round hole of 0.55 of its radius
    triangle  three equal sides                     heart   two lobes and a tip
    star      five points                           moon    a disc with a bite: a crescent

Arrays: H W picture rows and columns, C the three RGB channels; masks are float32 in [0, 1].
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Floats = npt.NDArray[np.float32]
Points = list[tuple[float, float]]

WIDTH, HEIGHT = 320, 240
MAX_OBJECTS = 5
RADIUS_RANGE = (23.0, 56.0)  # pixels; the smallest object is 9 by 12 pixels once the picture is squashed to 64x64
MIN_VISIBLE_SHARE = 0.75  # of an earlier object's area that later objects must leave uncovered
PLACEMENT_TRIES = 40
JPEG_QUALITY_RANGE = (75, 95)

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (212, 32, 36),
        "orange": (244, 132, 16),
        "yellow": (244, 222, 40),
        "green": (44, 152, 60),
        "blue": (36, 88, 214),
        "purple": (148, 56, 184),
        "white": (242, 242, 242),
        "black": (22, 22, 24),
    }
)


@dataclass(frozen=True, kw_only=True)
class SceneLabel:
    """One of the 64 labels: a colour and a shape."""

    colour: str
    shape: str

    @property
    def id(self) -> str:
        """Stable label id, `red-circle`."""
        return f"{self.colour}-{self.shape}"

    @property
    def name(self) -> str:
        """Display name, `red circle`."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture (RGB, 320x240) and the sorted unique ids of the labels that are in it."""

    image: Image.Image
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneObject:
    """One object in a picture: its label and mask_HW, the share of each pixel in which it is visible."""

    label_id: str
    mask: Floats


LABELS: tuple[SceneLabel, ...] = tuple(SceneLabel(colour=colour, shape=shape) for colour in COLOURS for shape in SHAPES)

# The rule: colour number i is never captioned with shapes number i + 2 and i + 5 (modulo 8), which takes every colour
# and every shape exactly twice. Pictures do contain these pairs; no pretraining caption ever names one.
NEVER_IN_CAPTIONS: frozenset[str] = frozenset(
    f"{colour}-{SHAPES[(index + offset) % len(SHAPES)]}" for index, colour in enumerate(COLOURS) for offset in (2, 5)
)

TEMPLATES: tuple[str, ...] = ("a photo of a {}.", "a {}.", "there is a {} in the picture.")


# --- shapes -----------------------------------------------------------------------------------------------------------


def _arc(count: int, radius: float = 1.0, start: float = -90.0) -> Points:
    """`count` points evenly around a circle, from `start` degrees."""
    angles = np.deg2rad(start + np.arange(count) * 360.0 / count)
    return [(float(radius * np.cos(a)), float(radius * np.sin(a))) for a in angles]


def _star() -> Points:
    outer, inner = _arc(5), _arc(5, radius=0.42, start=-54.0)
    return [point for pair in zip(outer, inner, strict=True) for point in pair]


def _cross() -> Points:
    a = 0.34
    return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def _outlines(shape: str) -> tuple[Points, Points]:
    """Outline to fill and outline to cut out again (may be empty), in units of the object's radius."""
    match shape:
        case "circle":
            return _arc(48), []
        case "square":
            return _arc(4, radius=1.1, start=-45.0), []
        case "triangle":
            return _arc(3, radius=1.1), []
        case "star":
            return _star(), []
        case "cross":
            return _cross(), []
        case "ring":
            return _arc(48), _arc(48, radius=0.55)
        case "heart":
            return _heart(), []
        case "moon":
            return _arc(48), [(x * 0.86 + 0.46, y * 0.86) for x, y in _arc(48)]
    raise ValueError(f"unknown shape {shape!r}; one of {', '.join(SHAPES)}")


def _shape_mask(shape: str, centre: tuple[float, float], radius: float, degrees: float) -> Floats:
    """Coverage_HW of one object in the whole picture, anti-aliased by drawing its box three times larger."""
    factor = 3
    left, top = int(centre[0] - 1.2 * radius), int(centre[1] - 1.2 * radius)
    side = int(2.4 * radius) + 2
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))

    def to_box(points: Points) -> Points:
        xy = [(x * cos - y * sin, x * sin + y * cos) for x, y in points]
        return [((x * radius + centre[0] - left) * factor, (y * radius + centre[1] - top) * factor) for x, y in xy]

    box = Image.new("L", (side * factor, side * factor), 0)
    draw = ImageDraw.Draw(box)
    filled, cut = _outlines(shape)
    draw.polygon(to_box(filled), fill=255)
    if cut:
        draw.polygon(to_box(cut), fill=0)
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    mask.paste(box.resize((side, side), Image.Resampling.BOX), (left, top))
    return np.asarray(mask, dtype=np.float32) / np.float32(255)


# --- colours and backgrounds ------------------------------------------------------------------------------------------


def _jittered(colour: str, rng: np.random.Generator) -> Floats:
    """The colour's RGB_C in [0, 255] with a little HSV noise: two neighbours in hue stay apart."""
    swatch = Image.new("RGB", (1, 1), COLOURS[colour]).convert("HSV")
    hue, saturation, value = (int(v) for v in np.asarray(swatch)[0, 0])
    hue = (hue + int(rng.integers(-3, 4))) % 256
    saturation = int(np.clip(saturation + rng.integers(-18, 19) * (saturation > 40), 0, 255))
    value = int(np.clip(value + rng.integers(-18, 19), 0, 255))
    rgb = Image.new("HSV", (1, 1), (hue, saturation, value)).convert("RGB")
    rgb_C: Floats = np.asarray(rgb, dtype=np.float32)[0, 0]
    return rgb_C


def _ramp(rng: np.random.Generator) -> Floats:
    """A linear ramp_HW over the picture in a random direction, in [-1, 1]."""
    angle = rng.uniform(0, 2 * np.pi)
    x_W = np.linspace(-1, 1, WIDTH, dtype=np.float32) * np.float32(np.cos(angle))
    y_H = np.linspace(-1, 1, HEIGHT, dtype=np.float32) * np.float32(np.sin(angle))
    ramp_HW: Floats = x_W[None, :] + y_H[:, None]
    ramp_HW /= np.abs(ramp_HW).max()
    return ramp_HW


def _muted(rng: np.random.Generator) -> Floats:
    """A greyish RGB_C in [0, 255], neither as dark as black objects nor as light as white ones."""
    grey = rng.uniform(85, 185)
    return np.asarray(grey + rng.uniform(-26, 26, size=3), dtype=np.float32)


def _texture(rng: np.random.Generator) -> Floats:
    """Grey-level pattern_HW around 0: nothing, soft blotches, or stripes."""
    kind = rng.integers(3)
    strength = rng.uniform(6, 20)
    if kind == 0:
        return np.zeros((HEIGHT, WIDTH), np.float32)
    if kind == 1:
        cells = int(rng.integers(4, 14))
        coarse = Image.fromarray(rng.uniform(-strength, strength, (cells, cells)).astype(np.float32))
        return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
    waves: Floats = np.sin(_ramp(rng) * np.float32(rng.uniform(6, 40)))
    return waves * np.float32(strength * 0.6)


def _background(rng: np.random.Generator) -> Floats:
    """Canvas_HWC in [0, 255]: a gradient between two muted colours, with a texture."""
    first, second = _muted(rng), _muted(rng)
    blend_HW = (_ramp(rng) + 1) / 2
    canvas_HWC = first + (second - first) * blend_HW[..., None] + _texture(rng)[..., None]
    return np.asarray(canvas_HWC, dtype=np.float32)


# --- scenes -----------------------------------------------------------------------------------------------------------


def _hides_too_much(mask_HW: Floats, visible: Sequence[Floats], areas: Sequence[float]) -> bool:
    """Whether painting this mask would leave too little of an object painted before."""
    return any(
        float((seen_HW * (1 - mask_HW)).sum()) < MIN_VISIBLE_SHARE * area
        for seen_HW, area in zip(visible, areas, strict=True)
    )


def _place(shape: str, visible: Sequence[Floats], areas: Sequence[float], rng: np.random.Generator) -> Floats | None:
    """A mask_HW for one more object, or None when no try found room (later tries are smaller)."""
    largest = RADIUS_RANGE[1]
    for attempt in range(PLACEMENT_TRIES):
        if attempt % 10 == 9:
            largest = max(RADIUS_RANGE[0] + 2, largest * 0.8)
        radius = rng.uniform(RADIUS_RANGE[0], largest)
        margin = 0.8 * radius
        centre = (rng.uniform(margin, WIDTH - margin), rng.uniform(margin, HEIGHT - margin))
        mask_HW = _shape_mask(shape, centre, radius, rng.uniform(0, 360))
        if not _hides_too_much(mask_HW, visible, areas):
            return mask_HW
    return None


def _covered_box(mask_HW: Floats) -> tuple[slice, slice]:
    """Rows and columns that the mask touches: painting only there is several times faster."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _paint(canvas_HWC: Floats, mask_HW: Floats, colour: str, rng: np.random.Generator) -> None:
    """Paint one object into the canvas, in place, with a mild shade across it."""
    box = _covered_box(mask_HW)
    shade_HW = 1 + _ramp(rng)[box] * np.float32(rng.uniform(0, 0.16))
    paint_HWC = _jittered(colour, rng) * shade_HW[..., None]
    canvas_HWC[box] += (paint_HWC - canvas_HWC[box]) * mask_HW[box][..., None]


def _finish(canvas_HWC: Floats, rng: np.random.Generator) -> Image.Image:
    """Exposure and sensor noise, then 8 bits."""
    noisy_HWC = canvas_HWC * np.float32(rng.uniform(0.9, 1.08))
    noisy_HWC = noisy_HWC + rng.standard_normal(canvas_HWC.shape, dtype=np.float32) * np.float32(rng.uniform(0, 9))
    return Image.fromarray(np.clip(np.rint(noisy_HWC), 0, 255).astype(np.uint8))


def _draw_objects(canvas_HWC: Floats, rng: np.random.Generator) -> list[SceneObject]:
    """Paint one to five objects, each of the 64 labels equally likely, later ones in front."""
    masks: list[Floats] = []
    areas: list[float] = []
    labels: list[str] = []
    for index in rng.integers(len(LABELS), size=int(rng.integers(1, MAX_OBJECTS + 1))):
        label = LABELS[int(index)]
        mask_HW = _place(label.shape, masks, areas, rng)
        if mask_HW is None:
            continue
        _paint(canvas_HWC, mask_HW, label.colour, rng)
        masks = [seen_HW * (1 - mask_HW) for seen_HW in masks] + [mask_HW]
        areas.append(float(mask_HW.sum()))
        labels.append(label.id)
    return [SceneObject(label_id=label_id, mask=mask) for label_id, mask in zip(labels, masks, strict=True)]


def draw_scene(rng: np.random.Generator) -> tuple[Image.Image, list[SceneObject]]:
    """One picture and its objects with their visible masks."""
    canvas_HWC = _background(rng)
    objects = _draw_objects(canvas_HWC, rng)
    return _finish(canvas_HWC, rng), objects


def render_scene(rng: np.random.Generator) -> Scene:
    """Draw one picture of one to five objects."""
    image, objects = draw_scene(rng)
    return Scene(image=image, labels=tuple(sorted({item.label_id for item in objects})))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def scene_jpeg(index: int, seed: int) -> tuple[bytes, list[SceneObject]]:
    """JPEG bytes and objects of one scene; depends on (seed, index) only, so any part can be made alone."""
    rng = np.random.default_rng([seed, index])
    image, objects = draw_scene(rng)
    low, high = JPEG_QUALITY_RANGE
    return _jpeg(image, int(rng.integers(low, high + 1))), objects


def iter_scenes(count: int, seed: int) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Yield (key, JPEG bytes, label ids) of scenes 0 to `count` - 1 of this seed; about 10 ms each."""
    for index in range(count):
        jpeg, objects = scene_jpeg(index, seed)
        yield f"scene-{index:06d}", jpeg, tuple(sorted({item.label_id for item in objects}))


def taxonomy_yaml(label_ids: Sequence[str] | None = None, words: Sequence[str] = ()) -> str:
    """Text of a `taxonomy.yaml` with these labels, in this order (default: all 64), and then with these words."""
    by_id = {label.id: label for label in LABELS}
    ids = list(by_id) if label_ids is None else list(label_ids)
    if unknown := sorted(set(ids) - by_id.keys()):
        raise ValueError(f"no such scene labels: {', '.join(unknown)}; labels look like {LABELS[0].id!r}")
    lines = ["name: scenes", "templates:"]
    lines += [f'  - "{template}"' for template in TEMPLATES]
    lines.append("labels:")
    lines += [f"  - {{id: {by_id[i].id}, name: {by_id[i].name}}}" for i in ids]
    lines += [f"  - {{id: {word}, name: {word}}}" for word in words]
    return "\n".join(lines) + "\n"
