"""Where BlazePose reads landmarks on the open body, against where the body has them (docs/data_open.md).

    python scripts/open/measure_landmarks.py [--people 220] [--seed 1] [--pictures FOLDER]
                                             [--output FILE.json] [key=value ...]

Renders people from the training motions and prints, for each landmark, the offset in the axes of its limb in
T-pose (x to the left, y up, z forward; millimetres), and the distances before and after it.
"""

import argparse
import logging
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.mask_transformer.data.open_motion import read_motions
from models.recovery.heldout import format_table
from models.recovery.reading_bias import distance_in_image, fit_offsets, read_twice, shown_people
from moro.body.loading import load_body_model
from moro.body.skeleton import LANDMARK_NAMES
from moro.config import compose_config
from moro.errors import ExitOnMoroError, MoroError
from moro.io.atomic import write_json
from moro.video.blazepose import BlazePose

UPRIGHT = ("walk", "stand/idle/gesture", "everyday", "dance", "sports", "exercise", "jump", "fight",
           "martial arts", "reach/manipulate")  # fmt: skip
LOST = 0.06  # of a person's size: read the wrong way round, or not at all


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=220)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="folder for the pictures with the readings drawn in")
    parser.add_argument("--output", type=Path, help="write the table as json")
    parser.add_argument("overrides", nargs="*", help="configuration")
    with ExitOnMoroError():
        run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    cfg = compose_config("demo", ["preset=open", *arguments.overrides])
    body = load_body_model(cfg.dataset.bm_path, cfg.demo.fit_body)
    root = Path(cfg.dataset.dataset_root or cfg.dataset.roots.open)
    motions = [motion for motion in read_motions(root, "train") if motion.family in UPRIGHT]
    detector = BlazePose(cfg.demo.detector_folder)
    people = islice(shown_people(body, motions, np.random.default_rng(arguments.seed)), arguments.people)
    kept, lost = [], 0
    for number, (shown, picture) in enumerate(
        tqdm(people, total=arguments.people, unit="person", disable=None)
    ):
        read = read_twice(detector, picture)
        if read is None or distance_in_image(shown, read) > LOST:
            lost += 1
            continue
        kept.append((shown, read.xy, read.visibility))
        if arguments.pictures:
            save_picture(arguments.pictures / f"{number:04d}.png", picture, read.xy)
    if not kept:
        raise MoroError("the detector read nobody; show it more than that (--people)")
    print(f"{len(kept)} people read, {lost} lost or turned")
    shown, pixels, visibility = zip(*kept)
    found = fit_offsets(shown, np.stack(pixels), np.stack(visibility))
    table = {
        name: {
            "n": float(found.readings[row]),
            **{axis: 1000 * float(found.offset[row, k]) for k, axis in enumerate("xyz")},
            "before [mm]": 1000 * float(found.before[row]),
            "after [mm]": 1000 * float(found.after[row]),
        }
        for row, name in enumerate(LANDMARK_NAMES)
    }
    print(format_table(table))
    if arguments.output:
        write_json(arguments.output, table)


def save_picture(path: Path, picture: np.ndarray, points: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for x, y in points:
        cv2.circle(picture, (round(x), round(y)), 3, (255, 0, 0), -1)
    cv2.imwrite(str(path), picture[:, :, ::-1])


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    torch.set_grad_enabled(False)
    main()
