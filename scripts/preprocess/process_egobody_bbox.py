"""Boxes of EgoBody's two people from the OpenPose detections (spec: data 5.2).

    python -m scripts.preprocess.process_egobody_bbox --root datasets/mask_transformer/EgoBody

Writes keypoints_cleaned/<recording>/<view>/bbox_idx{0,1}.npz: frame_names (T,), centers (T, 2), scales (T,),
bboxes (T, 4), detected (T,) in pixels of the raw, distorted images. Can be interrupted and started again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moro.errors import run_script
from scripts.preprocess.openpose_boxes import Job, parse, recordings, run

NAME_LENGTH = len("frame_00000")


def main(argv: list[str] | None = None) -> None:
    args = parse(__doc__, "datasets/mask_transformer/EgoBody", argv)
    jobs = []
    for recording in recordings(args.root / "keypoints_cleaned", args.recordings):
        for view in sorted(path for path in recording.iterdir() if path.is_dir()):
            files = sorted(view.glob("frame*.json"))
            frames = [path.name[:NAME_LENGTH] for path in files]
            jobs += [Job(view / f"bbox_idx{person}.npz", files, frames, person) for person in (0, 1) if files]
    run(jobs, "EgoBody boxes", args)


if __name__ == "__main__":
    run_script(main)
