"""PROX on disk: recordings, cameras, folders (spec: data 4.6)."""

from pathlib import Path

from numpy.typing import NDArray

from moro.errors import MoroError
from moro.geometry.lens import Lens
from moro.io.scenes import Boxes, read_boxes, read_lens, read_transform

BOX_SCRIPT = "scripts.preprocess.process_prox_bbox"
RECORDINGS = (
    "MPH1Library_00034_01", "N0Sofa_00034_01", "N0Sofa_00034_02", "N0Sofa_00141_01", "N0Sofa_00145_01",
    "N3Library_00157_01", "N3Library_00157_02", "N3Library_03301_01", "N3Library_03301_02",
    "N3Library_03375_01", "N3Library_03375_02", "N3Library_03403_01", "N3Library_03403_02",
    "N3Office_00034_01", "N3Office_00139_01", "N3Office_00150_01", "N3Office_00153_01", "N3Office_00159_01",
    "N3Office_03301_01",
)  # fmt: skip
FLOOR_HEIGHTS = {  # z of the floor in each scene's z-up frame, metres
    "N0Sofa": -0.9843093165454873,
    "MPH1Library": -0.34579620031341207,
    "N3Library": -0.6736229583361132,
    "N3Office": -0.7772727989022952,
    "BasementSittingBooth": -0.767080139846674,
    "MPH8": -0.41432886722717904,
    "MPH11": -0.7169139211234009,
    "MPH16": -0.8408992040141058,
    "MPH112": -0.6419028605753081,
    "N0SittingBooth": -0.6677103008966809,
    "N3OpenArea": -1.0754909672969915,
    "Werkraum": -0.6777057869851316,
}
_FEMALE_SUBJECTS = (162, 3452, 159, 3403)


def scene_of(recording: str) -> str:
    """Scene name: the text before the first underscore."""
    return recording.split("_")[0]


def gender_of(recording: str) -> str:
    """male or female, by the subject's number."""
    parts = recording.split("_")
    if len(parts) != 3 or not parts[1].isdigit():
        raise MoroError(f"{recording!r} is no PROX recording; expected <scene>_<subject>_<take>")
    return "female" if int(parts[1]) in _FEMALE_SUBJECTS else "male"


def world_file(root: str | Path, recording: str) -> Path:
    """Pose of the colour camera in the scene."""
    return Path(root) / "cam2world" / f"{scene_of(recording)}.json"


def camera_to_world(root: str | Path, recording: str) -> NDArray:
    """(4, 4) colour camera → z-up scene frame."""
    return read_transform(world_file(root, recording))


def lens_file(root: str | Path) -> Path:
    """Intrinsics of the colour camera."""
    return Path(root) / "calibration" / "Color.json"


def colour_lens(root: str | Path) -> Lens:
    """Lens of the colour camera; images are undistorted with it and then mirrored."""
    return read_lens(lens_file(root))


def image_folder(root: str | Path, recording: str) -> Path:
    """Folder of the colour images, stored mirrored."""
    return Path(root) / "recordings" / recording / "Color"


def parameter_folder(root: str | Path, recording: str) -> Path:
    """Folder of the pseudo ground truth in the colour camera's frame."""
    return Path(root) / "PROXD_filled" / recording / "results"


def box_file(root: str | Path, recording: str) -> Path:
    """Boxes made by the preprocessing (spec: data 5.3)."""
    return Path(root) / "keypoints_openpose" / recording / "bbox.npz"


def person_boxes(root: str | Path, recording: str) -> Boxes:
    """Boxes of the person, in pixels of the mirrored, distorted images."""
    return read_boxes(box_file(root, recording), BOX_SCRIPT)
