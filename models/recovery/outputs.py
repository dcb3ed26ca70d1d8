"""From recovered meshes to motion.npz, motion.glb and result.mp4 (spec: data 9.2, 9.5, 9.6)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.recovery.condition import PersonCondition
from moro.body.fitting import BodyFit, Meshes, fit_body
from moro.body.model import BodyModel
from moro.body.refinement import refine_by_landmarks
from moro.export.amass import write_motion_npz
from moro.export.glb import write_motion_glb
from moro.geometry.boxes import landmark_rays
from moro.geometry.ground import Ground, fit_ground, sole_vertices
from moro.render.scene import person_colour
from moro.render.video import Person, render_result_video
from moro.video.reader import VideoFrames

logger = logging.getLogger(__name__)

REBUILD_CHUNK = 256  # frames posed at once, so that memory does not grow with the video


@dataclass
class RecoveredPerson:
    """A person's fitted motion.

    condition  what was seen of the person
    folder     result folder
    fit        parameters in the camera frame, all L frames
    """

    condition: PersonCondition
    folder: Path
    fit: BodyFit


def fit_person(
    body: BodyModel,
    vertices: Meshes,
    person: PersonCondition,
    contact: NDArray,
    K: Tensor,
    refine: bool,
) -> BodyFit:
    """Parameters, joints and soles of the body that follows the recovered meshes (L, V, 3).

    contact  (L, 4|6) logits
    refine   turn its limbs to where the landmarks of `person` were seen by the camera K, and its legs until
             feet in contact stay where they are (`demo.refine`)
    """
    soles = sole_vertices(body.v_template.cpu().numpy())
    fit = fit_body(body, vertices, points=soles)
    logger.info("%s: fit within %.1f mm of the mesh", person.name, 1000 * float(fit.vertex_error.mean()))
    if not refine:
        return fit
    rays, weight = landmark_rays(person.landmarks, person.center, person.scale, K)
    return refine_by_landmarks(body, fit, rays, weight, torch.from_numpy(contact), soles)


def ground_under(people: Sequence[RecoveredPerson], fps: float) -> Ground:
    """One floor for everybody in the video, and with it the world frame."""
    joints = [person.fit.joints.cpu().numpy() for person in people]
    soles = [person.fit.points.cpu().numpy() for person in people]
    return fit_ground(joints, soles, seen=[person.condition.seen for person in people], fps=fps)


def write_exports(
    people: Sequence[RecoveredPerson],
    body: BodyModel,
    ground: Ground,
    K: NDArray,
    image_size: tuple[int, int],
    fps: float,
    gender: str,
    with_glb: bool,
) -> None:
    """motion.npz and, if wanted, motion.glb of every person."""
    for number, person in enumerate(people):
        write_motion_npz(
            person.folder / "motion.npz",
            body,
            person.fit,
            ground,
            K,
            image_size,
            fps=fps,
            gender=gender,
            seen=person.condition.seen,
        )
        if with_glb:
            colour = person_colour(number)
            report = write_motion_glb(
                person.folder / "motion.glb", body, person.fit, ground, fps=fps, colours=[colour]
            )
            logger.info(
                "%s: motion.glb within %.1f mm of the body (no pose correctives in glTF)",
                person.condition.name,
                1000 * report.pose_deviation,
            )


def write_video(
    path: Path,
    frames: VideoFrames,
    people: Sequence[RecoveredPerson],
    body: BodyModel,
    ground: Ground | None,
    K: NDArray,
    draw_boxes: bool,
) -> None:
    """Overlay on the video; beside it the world view if a ground is given."""
    drawn = [
        Person(
            vertices=_LazyMeshes(person.fit, body),
            faces=body.faces,
            colour=person_colour(number),
            number=number,
            boxes=_corners(person.condition) if draw_boxes else None,
            seen=person.condition.seen,
        )
        for number, person in enumerate(people)
    ]
    render_result_video(path, frames, drawn, K, num_frames=len(frames), fps=frames.fps, ground=ground)


class _LazyMeshes:
    """Vertices of a frame on demand, posed a chunk at a time."""

    def __init__(self, fit: BodyFit, body: BodyModel) -> None:
        self.fit, self.body, self.start, self.chunk = fit, body, 0, None

    def __call__(self, frame: int) -> torch.Tensor:
        if self.chunk is None or not self.start <= frame < self.start + len(self.chunk):
            self.start = frame
            frames = slice(frame, min(frame + REBUILD_CHUNK, len(self.fit.transl)))
            with torch.no_grad():
                self.chunk = self.fit.rebuild(self.body, frames).vertices
        return self.chunk[frame - self.start]


def _corners(condition: PersonCondition) -> NDArray:
    """(L, 4) corners of the square boxes, NaN where the person was not seen."""
    half = 100 * condition.scale[:, None]
    corners = torch.cat((condition.center - half, condition.center + half), dim=1).numpy()
    corners[~condition.seen] = np.nan
    return corners
