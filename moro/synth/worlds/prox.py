"""A small PROX: one person in a room, one Kinect, images stored mirrored (spec: data 4.6)."""

from pathlib import Path

import torch
from torch import Tensor

from moro.io.scenes import write_image
from moro.synth.worlds import WorldSize
from moro.synth.worlds.stage import (
    Camera,
    Photographer,
    intrinsics_json,
    look_at,
    make_stage,
    write_json,
    write_openpose,
    write_pickle,
)

SIZE = (1920, 1080)
RECORDINGS = ("N0Sofa_00145_01", "N3Library_03403_01", "N3Office_00162_01")
FEMALE = (162, 3452, 159, 3403)
FLOOR = {"N0Sofa": -0.9843093165454873, "N3Library": -0.6736229583361132, "N3Office": -0.7772727989022952}
UNDETECTED = 2  # in this frame nobody is detected
DISTORTION = (0.08, -0.07, 0.0005, -0.0003, 0.015, 0.0, 0.0, 0.0)


def write(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    """Up to three recordings, a female and a male subject among them."""
    root = out / "PROX"
    camera = _camera()
    write_json(root / "calibration" / "Color.json", intrinsics_json(camera))
    for number, name in enumerate(RECORDINGS[: size.recordings]):
        scene, subject, _ = name.split("_")
        gender = "female" if int(subject) in FEMALE else "male"
        stage = make_stage(
            (seed, number), size.frames, [gender], [(0.2, 0.0)], bodies, (0.1, -0.8), size.motions
        )
        cam2world = stage2scene(scene) @ torch.linalg.inv(camera.stage2cam)
        write_json(root / "cam2world" / f"{scene}.json", cam2world)
        _write_recording(root, name, Photographer(stage, camera))
    return root


def _camera() -> Camera:
    """Of the room as the pseudo ground truth sees it; the stored images are mirrored."""
    K = torch.tensor([[1060.5, 0, 951.3], [0, 1060.4, 536.8], [0, 0, 1]])
    return Camera(K, look_at((0.4, -3.1, 1.9), (0.1, 0.1, 0.85)), SIZE, torch.tensor(DISTORTION), True)


def stage2scene(scene: str) -> Tensor:
    """(4, 4) to the scene's z-up world, whose floor is at z = FLOOR[scene]."""
    matrix = [[0.6, 0.8, 0, 0.5], [-0.8, 0.6, 0, -0.2], [0, 0, 1, FLOOR[scene]], [0, 0, 0, 1]]
    return torch.tensor(matrix).float()


def _write_recording(root: Path, name: str, photographer: Photographer) -> None:
    (actor,) = photographer.stage.actors
    parameters = actor.parameters(photographer.camera.stage2cam)
    for frame in range(len(actor.transl)):
        stem = frame_name(frame)
        write_image(root / "recordings" / name / "Color" / f"{stem}.jpg", photographer.picture(frame))
        people = [] if frame == UNDETECTED else [photographer.openpose(frame, 0)]
        write_openpose(root / "keypoints_openpose" / name / f"{stem}_keypoints.json", people)
        row = {key: value[frame : frame + 1] for key, value in parameters.items()}
        write_pickle(root / "PROXD_filled" / name / "results" / stem / "000.pkl", row)


def frame_name(frame: int) -> str:
    return f"s001_frame_{frame + 1:05d}__00.00.{frame // 30:02d}.{frame % 30 * 33:03d}"
