"""Pictures of test clips of task motion: what goes in, what is hidden of it, what comes out, what is true."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import trimesh
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from models.mask_transformer.losses import contact_joints
from models.mask_transformer.system import Batch, MoRoSystem, Recovered
from moro.io.scenes import write_image
from moro.render.scene import Mesh, WorldView

SIZE = (720, 1280)  # H, W
SPACING = 1.0  # metres between the four bodies
COLOURS = {"input": "orange", "masked": "purple", "prediction": "skin", "truth": "white"}
CONTACT, NO_CONTACT = "green", "red"
SPHERE_RADIUS = 0.04


def picture_folder(stage: Path, cfg: DictConfig) -> Path:
    """`<stage>/vis_<mode>_<ratio>_<timesteps>_<σt>_<σr>` (spec: data 10)."""
    model, noise = cfg.model, cfg.dataset.noise
    transl, rot = (0.0, 0.0) if noise is None else (noise.test.transl, noise.test.rot)
    return stage / f"vis_{model.mode}_{model.mask_ratio}_{model.test.generate.timesteps}_{transl}_{rot}"


class ClipPictures(Callback):
    """Draws every frame of every test clip as `<folder>/clip_XXX/vis_FF.png` (spec: data 10).

    folder  picture_folder(...)
    faces   (F, 3) of the body
    Four bodies stand `SPACING` apart along the world's y axis (z-up): the true one at the noisy poses that
    the network is given, what its tokens that are not masked decode to, the prediction, the truth. The latter
    two have a sphere at each joint that may touch the ground: green in contact, red not.
    """

    def __init__(self, folder: Path, faces: Tensor) -> None:
        self.folder, self.faces = folder, faces
        ball = trimesh.creation.icosphere(subdivisions=1, radius=SPHERE_RADIUS)
        self._ball = torch.from_numpy(ball.vertices).float(), torch.from_numpy(ball.faces)
        self._count = 0

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: MoRoSystem,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for clips, recovered in outputs:
            bodies, joints = _side_by_side(pl_module, clips, recovered)
            touching = {
                "prediction": recovered.contact > 0,
                "truth": _last_repeated(clips["contact_label"] > 0.5) if "contact_label" in clips else None,
            }
            for row in range(len(recovered.ids)):
                self._draw_clip(
                    {name: vertices[row] for name, vertices in bodies.items()},
                    {name: joints[name][row] for name in touching},
                    {name: None if labels is None else labels[row] for name, labels in touching.items()},
                )

    def _draw_clip(
        self, bodies: dict[str, Tensor], joints: dict[str, Tensor], touching: dict[str, Tensor | None]
    ) -> None:
        """bodies (F, V, 3), joints (F, C, 3) in the y-up world; touching (F, C) bool."""
        view = WorldView.around(list(bodies.values()), SIZE)
        folder = self.folder / f"clip_{self._count:03d}"
        self._count += 1
        for frame in range(len(bodies["truth"])):
            meshes = [Mesh(vertices[frame], self.faces, COLOURS[name]) for name, vertices in bodies.items()]
            for name, labels in touching.items():
                if labels is not None:
                    meshes += self._spheres(joints[name][frame], labels[frame])
            write_image(folder / f"vis_{frame:02d}.png", view.render(meshes))

    def _spheres(self, joints: Tensor, touching: Tensor) -> list[Mesh]:
        points, faces = self._ball
        return [
            Mesh(points + joint, faces, CONTACT if touches else NO_CONTACT)
            for joint, touches in zip(joints, touching.tolist())
        ]


def _side_by_side(
    system: MoRoSystem, clips: Batch, recovered: Recovered
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Vertices (B, F, V, 3) and joints (B, F, C, 3) of each body, in a y-up world whose x is the clip's y."""
    true = clips["rotation"], clips["translation"]
    noisy = system.stats.decode(recovered.cano_input, true[0][:, :1], true[1][:, :1])
    kept = system.decode_tokens(system.mask_transformer.embed(recovered.masked_ids), smooth=False)
    shown = {
        "input": (clips["mesh"], noisy),
        "masked": (kept, noisy),
        "prediction": (recovered.local_mesh, (recovered.rotation, recovered.translation)),
        "truth": (clips["mesh"], true),
    }
    chosen = contact_joints(recovered.contact.shape[-1])
    bodies, joints = {}, {}
    for place, (name, (mesh, (rotation, translation))) in enumerate(shown.items()):
        shift = translation.new_tensor([0, (place - (len(shown) - 1) / 2) * SPACING, 0])
        moved = (mesh @ rotation.mT + translation + shift)[..., [1, 2, 0]].cpu()  # z-up -> y-up
        bodies[name] = moved
        joints[name] = (system.loss.joint_regressor.cpu() @ moved)[..., chosen, :]
    return bodies, joints


def _last_repeated(labels: Tensor) -> Tensor:
    """Labels (B, F-1, C) of pairs of frames as those of F frames."""
    return torch.cat((labels, labels[:, -1:]), dim=1)
