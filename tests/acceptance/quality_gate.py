"""How many images a trained model's quality gate accepts: radiographs, and what is none.

    python tests/acceptance/quality_gate.py MODEL [--jsrt FOLDER] [--count 200]

Black images with noise of ±1, uniform noise, crops of scikit-image's photographs; with a JSRT
folder (images/, val.txt) also its validation radiographs, as they are, turned and mirrored.
Everything goes through `medseg predict` as PNG files; nothing here was seen in training.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from medseg import cli

PHOTOGRAPHS = (
    *("astronaut", "camera", "coins", "cat", "coffee", "rocket", "brick", "grass", "gravel"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "clock", "text", "retina"),
    *("colorwheel", "horse", "cell"),
)


def black(rng, number):
    del number
    return rng.integers(0, 2, (512, 512)).astype(np.uint8)


def noise(rng, number):
    del number
    return rng.integers(0, 256, (512, 512)).astype(np.uint8)


def photographs(count, rng):
    """Random squares of the photographs that scikit-image brings along."""
    import skimage.data

    known = []
    for name in PHOTOGRAPHS:
        try:
            image = np.asarray(getattr(skimage.data, name)())
        except Exception as error:  # some are downloaded on demand, and there may be no network
            print(f"without {name}: {type(error).__name__}")
            continue
        if image.dtype == bool or image.ndim not in (2, 3):
            continue
        known.append(image[..., :3] if image.ndim == 3 else image)
    for number in range(count):
        image = known[number % len(known)]
        side = int(rng.integers(min(96, *image.shape[:2]), min(image.shape[:2]) + 1))
        y, x = (int(rng.integers(0, n - side + 1)) for n in image.shape[:2])
        yield image[y : y + side, x : x + side].astype(np.uint8)


def accepted(model, images, folder):
    """Whether each image is accepted, as predict's sidecars say."""
    (folder / "in").mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / "in" / f"{number:03d}.png")
    words = ["predict", str(model), str(folder / "in"), "--out", str(folder / "out")]
    cli.main([*words, "--no-overlay", "--samples", "16"])
    sidecars = [json.loads(p.read_text()) for p in sorted((folder / "out").glob("???.json"))]
    return [s["quality"]["accepted"] for s in sidecars], [s["quality"]["score"] for s in sidecars]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--jsrt", type=Path)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    rng = np.random.default_rng(2026)
    sets = {
        "black ± 1": [black(rng, n) for n in range(options.count)],
        "uniform noise": [noise(rng, n) for n in range(options.count)],
        "photographs": list(photographs(options.count, rng)),
    }
    if options.jsrt:
        names = [line.split(".")[0] for line in (options.jsrt / "val.txt").read_text().split()]
        films = [np.asarray(Image.open(options.jsrt / f"images/{n}.jpg")) for n in names]
        sets |= {
            "radiographs": films,
            "turned by 90°": [np.rot90(f).copy() for f in films],
            "turned by 180°": [np.rot90(f, 2).copy() for f in films],
            "mirrored": [f[:, ::-1].copy() for f in films],
        }
    for name, images in sets.items():
        with tempfile.TemporaryDirectory() as place:
            found, scores = accepted(options.model, images, Path(place))
        low, high = min(scores), max(scores)
        print(f"{name:16} accepted {sum(found):3d} of {len(found)}, scores {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
