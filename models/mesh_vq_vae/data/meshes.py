"""Body parameters → canonical meshes, a batch at a time (spec: models 1.6, data 3.2)."""

import torch
from roma import rotvec_to_rotmat
from torch import Tensor, nn

from models.mesh_vq_vae.data.dataset import GENDERS
from moro.body.model import BodyModel


class MeshMaker(nn.Module):
    """Poses the body model of each sample's gender; nothing here is saved with a checkpoint.

    bodies     gender → body model; all of one vertex count
    canonical  leave out the global orientation
    normalize  subtract the vertex mean as well
    """

    def __init__(self, bodies: dict[str, BodyModel], canonical: bool = True, normalize: bool = False) -> None:
        super().__init__()
        self.bodies = nn.ModuleDict(bodies)
        self.canonical, self.normalize = canonical, normalize

    @property
    def reference(self) -> BodyModel:
        """The neutral body, or the only one there is; its regressor gives the joints of all."""
        return self.bodies["neutral"] if "neutral" in self.bodies else next(iter(self.bodies.values()))

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of BodyParameters → meshes (B, V, 3), metres, pelvis at the origin."""
        gender = batch["gender"]
        mesh = batch["betas"].new_empty(len(gender), self.reference.num_vertices, 3)
        for name, body in self.bodies.items():
            chosen = (gender == GENDERS.index(name)).nonzero().squeeze(1)  # (N,)
            if len(chosen):
                mesh[chosen] = self._pose(body, {key: value[chosen] for key, value in batch.items()})
        return mesh - mesh.mean(1, keepdim=True) if self.normalize else mesh

    def _pose(self, body: BodyModel, batch: dict[str, Tensor]) -> Tensor:
        orient = None if self.canonical else rotvec_to_rotmat(batch["root_orient"])
        output = body(rotvec_to_rotmat(batch["pose_body"]), batch["betas"], global_orient=orient)
        return output.vertices - output.joints[..., :1, :]
