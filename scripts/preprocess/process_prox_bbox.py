"""Boxes of PROX's people from the OpenPose detections (spec: data 5.3).

    python -m scripts.preprocess.process_prox_bbox --root datasets/mask_transformer/PROX

Writes keypoints_openpose/<recording>/bbox.npz: frame_names (T,), centers (T, 2), scales (T,), bboxes (T, 4),
detected (T,) in pixels of the mirrored, distorted images. Can be interrupted and started again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moro.errors import run_script
from scripts.preprocess.openpose_boxes import Job, parse, recordings, run

SUFFIX = "_keypoints"


def main(argv: list[str] | None = None) -> None:
    args = parse(__doc__, "datasets/mask_transformer/PROX", argv)
    jobs = []
    for recording in recordings(args.root / "keypoints_openpose", args.recordings):
        files = sorted(recording.glob(f"*{SUFFIX}.json"))
        frames = [path.stem.removesuffix(SUFFIX) for path in files]
        jobs += [Job(recording / "bbox.npz", files, frames, 0)] if files else []
    run(jobs, "PROX boxes", args)


if __name__ == "__main__":
    run_script(main)
