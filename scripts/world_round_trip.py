"""Training, inference and evaluation on a made-up EgoBody, from nothing to a table: does training help?

    python scripts/world_round_trip.py --out exp/round_trip --report docs/round_trip.md

A small network with the release's topology (stand-in for SMPL-X with 9383 vertices, 87 tokens, a ViT on the
rendered images) goes through tokenizer and stages 1 to 5 by the documented commands, made smaller by
overrides. Inference and evaluation are run on the last stage and, for comparison, on the same network after
one step of it from nothing. Finished steps are not repeated.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from moro.errors import MoroError, run_script

ROOT = Path(__file__).resolve().parent.parent
VERTICES, LEVELS = 9383, ("2618", "546", "87", "13")
TRAINED, UNTRAINED = "world", "untrained"
NETWORK = (
    "model.vqvae.center=true",
    "model.dst_former.dim_feat=64",
    "model.dst_former.num_heads=4",
    "model.dst_former.mlp_ratio=2",
    "model.dst_former.mdepth=1",
    "model.dst_former.idepth=1",
    "model.dst_former.ddepth=1",
    "model.backbone.weights=null",
    "model.backbone.out_C=64",
    "model.backbone.depth=2",
    "model.backbone.num_heads=4",
    "model.loss.mesh_every=10",
    "model.loss.lambda_rot6d=2",
    "model.loss.lambda_token=1",
    "dataset.extreme_crop_aug=false",
    "dataset.num_workers=1",
    "dataset.num_workers_val=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.limit_val_batches=2",
)
SHOWN = {  # of the evaluation
    "mpjpe": "MPJPE [mm]",
    "visible_mpjpe": "MPJPE, visible [mm]",
    "occluded_mpjpe": "MPJPE, occluded [mm]",
    "pa_mpjpe": "PA-MPJPE [mm]",
    "gmpjpe": "GMPJPE [mm]",
    "rte": "RTE [%]",
}

REPORT = """# Round trip on a made-up EgoBody

What this shows: the whole way from files in EgoBody's format to the evaluation's table works, and training
does what it should. What it does not show: how good anything is. The network is a fraction of the
release's, and the people are stand-ins.

```
{command}
```

A network with the release's topology ({vertices} vertices, {tokens} tokens, a ViT on the rendered images,
everything narrow) goes through tokenizer and stages 1 to 5 by the documented commands, with the overrides
of that script. "Trained" is the last stage; "one step" is the same network after one step of it from
nothing, with the same tokenizer. Both run the same inference (5 passes) and the same evaluation (SMPL-X
fit, joints of SMPL) on a recording that no training has seen (validation has; nothing is chosen by it).
{trained} other recordings of {frames} frames are the training data of stages 3 to 5.

{table}"""


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--out", type=Path, default=Path("exp/round_trip"), help="data, logs")
    parser.add_argument("--report", type=Path, help="write the table there as well")
    parser.add_argument("--recordings", type=int, default=8)
    parser.add_argument("--frames", type=int, default=48, help="per recording")
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps")
    parser.add_argument("--motions", type=Path, help="as of make_world.py: captured motion")
    args = parser.parse_args()
    trip = RoundTrip(args.out, args.scale)
    trip.make_world(args.recordings, args.frames, args.motions)
    trip.train_tokenizer()
    trip.train_stages()
    table = trip.table()
    print(table)
    if args.report:
        text = REPORT.format(
            command=" ".join(["python scripts/world_round_trip.py", *sys.argv[1:]]), table=table,
            trained=args.recordings - 1, frames=args.frames, vertices=VERTICES, tokens=LEVELS[2],
        )  # fmt: skip
        args.report.write_text(text, encoding="utf-8")


class RoundTrip:
    """The steps; each is a command of the documentation."""

    def __init__(self, out: Path, scale: float) -> None:
        self.out, self.scale = out, scale
        self.bodies = out / "standin_body_models"
        self.tables = self.bodies / "smplx_ConnectionMatrices"
        self.tokenizer = out / "tokenizer.ckpt"
        self.network = (
            *NETWORK,
            f"dataset.bm_path={self.bodies}",
            f"model.vqvae.meshconv.connection_folder={self.tables}",
            f"model.vqvae.model_path={self.tokenizer}",
            f"model.trajectory_stats={out}/amass_cum_traj.pkl",
            f"model.j_regressor_h36m={self.bodies}/J_regressor_h36m.npy",
            f"model.smplx2smpl={self.bodies}/smplx2smpl_sparse.pt",
        )

    def run(self, name: str, *words: object) -> None:
        """`python <words>` unless done before; its output and wall time stay in <out>/<name>.txt."""
        done = self.out / f"{name}.done"
        if done.exists():
            return
        self.out.mkdir(parents=True, exist_ok=True)
        command = [str(word) for word in words]
        print(f"{name}: python {' '.join(command)}", flush=True)
        start = time.time()
        with open(self.out / f"{name}.txt", "w", encoding="utf-8") as log:
            status = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=log, stderr=log).returncode
        if status:
            raise MoroError(f"{name} failed; its output is in {self.out / name}.txt")
        done.write_text(f"{time.time() - start:.0f}")

    def root(self, name: str) -> str:
        return f"dataset.dataset_root={self.out / name}"

    def steps(self, count: int, warmup: int = 20) -> tuple[str, ...]:
        count = max(2, round(count * self.scale))
        return (
            f"trainer.max_steps={count}",
            f"trainer.val_check_interval={count}",
            f"optim.warmup_steps={min(warmup, count - 1)}",
        )

    def make_world(self, recordings: int, frames: int, motions: Path | None) -> None:
        def world(name: str, count: int, length: int) -> None:
            size = ("--recordings", count, "--frames", length, "--vertices", VERTICES)
            size += () if motions is None else ("--motions", motions)
            self.run(f"world_{name}", "scripts/make_world.py", "--format", name, "--out", self.out, *size)

        world("AMASS_smplx", 4, 90)
        world("amass", 4, 90)
        world("egobody", recordings, frames)
        self.run(
            "tables", "scripts/open/build_topology.py", "--bm_path", self.bodies, "--model_type", "smplx",
            "--level_sizes", *LEVELS, "--out", self.tables,
        )  # fmt: skip
        boxes = "scripts/preprocess/process_egobody_bbox.py"
        self.run("boxes", boxes, "--root", self.out / "EgoBody", "--jobs", 1)
        self.run("stats", "scripts/compute_trajectory_stats.py", *self.network, self.root("AMASS"))

    def train_tokenizer(self) -> None:
        paths = {split: f"[{self.out}/AMASS_smplx/{split}.npz]" for split in ("train", "val", "test")}
        self.run(
            "tokenizer", "train_mesh_vqvae.py", f"tag={TRAINED}", "model.vqvae.center=true",
            *(f"dataset.{split}_path={path}" for split, path in paths.items()),
            f"dataset.bm_path={self.bodies}", f"model.vqvae.meshconv.connection_folder={self.tables}",
            "dataset.batch_size=16", "dataset.num_workers=0", "optim.lr=2e-3", "trainer.accelerator=cpu",
            "trainer.enable_progress_bar=false", *self.steps(400)[:2],
        )  # fmt: skip
        if not self.tokenizer.exists():
            trained = Path(f"exp/mesh_vqvae/mesh-vqvae-medium-{TRAINED}/checkpoints/last.ckpt")
            self.tokenizer.write_bytes((ROOT / trained).read_bytes())

    def train_stages(self) -> None:
        def stage(name: str, tag: str, count: int, *more: str) -> None:
            words = ("train_mask_transformer.py", f"option={name}", f"tag={tag}", *self.network)
            self.run(f"{name}_{tag}", *words, *self.steps(count), "optim.lr=1e-3", *more)

        camera = ("data=egobody", self.root("EgoBody"))
        motion = self.root("AMASS")
        stage("pose_pretrain", TRAINED, 300, motion, "dataset.batch_size=16")
        stage("motion_pretrain", TRAINED, 60, motion, "dataset.batch_size=2", "dataset.clip_len=24")
        frames = ("dataset.clip_len=1", "dataset.overlap_len=0", "dataset.batch_size=16")
        stage("image_pretrain", TRAINED, 250, *camera, *frames)
        stage("video_pretrain", TRAINED, 600, *camera, *frames)
        clips = (*camera, "dataset.clip_len=24", "dataset.batch_size=1")
        stage("video_train", TRAINED, 100, *clips)
        nothing = ("model.motion_ckpt=null", "model.image_ckpt=null", "trainer.max_steps=1")
        stage("video_train", UNTRAINED, 2, *clips, *nothing)

    def evaluate(self, tag: str) -> dict[str, float]:
        option = ("option=[inference,video_train]", f"tag={tag}", "data=egobody", self.root("EgoBody"))
        results = f"exp/mask_transformer/MIMO-vit-{tag}/video_train/result_egobody/inference_5_1"
        self.run(f"inference_{tag}", "train_mask_transformer.py", *option, *self.network)
        self.run(
            f"evaluation_{tag}", "eval_egobody.py", f"--saved_data_dir={results}", "--recording_name=all",
            f"--dataset_root={self.out}/EgoBody", f"--bm_path={self.bodies}",
        )  # fmt: skip
        return json.loads((ROOT / results / "metrics_all.json").read_text(encoding="utf-8"))["overall"]

    def table(self) -> str:
        """Metrics before and after, and the wall time of each step."""
        before, after = self.evaluate(UNTRAINED), self.evaluate(TRAINED)
        lines = ["| | one step | trained |", "|---|---|---|"]
        rows = [(label, before[key], after[key]) for key, label in SHOWN.items() if before.get(key)]
        lines += [f"| {label} | {start:.1f} | {end:.1f} |" for label, start, end in rows]
        marks = sorted(self.out.glob("*.done"), key=lambda path: path.stat().st_mtime)
        lines += ["", "Seconds: " + ", ".join(f"{path.stem} {path.read_text()}" for path in marks)]
        return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_script(main)
