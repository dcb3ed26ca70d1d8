"""A tiny untrained system through the demo's own steps: tracks in, landmarks of the fitted body out."""

import torch

from models.mask_transformer.build import build_system
from models.recovery.pipeline import intrinsics
from models.recovery.real_video import recover_landmarks
from moro.body.loading import load_body_model
from moro.config import compose_config
from moro.geometry.trajectory import TrajectoryStats
from tests.recovery.studio import SIZE, cameras, detections, person

TINY = ("dim_feat=16", "mdepth=1", "idepth=1", "ddepth=1", "num_heads=2")


def test_landmarks_of_a_track(repository) -> None:
    small = [f"model.dst_former.{line}" for line in TINY]
    cfg = compose_config("demo", ["preset=open", *small, f"dataset.bm_path={repository / 'body_models'}"])
    torch.manual_seed(0)
    system = build_system(cfg, initialise=False).eval()
    system.set_trajectory_stats(TrajectoryStats(torch.zeros(9), torch.ones(9)))
    body = load_body_model(cfg.dataset.bm_path, cfg.dataset.model_type)
    track = detections(person(6), cameras()[0])
    with torch.no_grad():
        landmarks = recover_landmarks(cfg, system, body, track, intrinsics(1500.0, SIZE), SIZE)
    assert landmarks.shape == (6, 33, 3) and landmarks.isfinite().all()
    size = (landmarks.amax(1) - landmarks.amin(1)).amax(-1)
    assert (size > 0.01).all() and (size < 4).all()  # a body, whatever its pose
