#!/usr/bin/env bash
# What parts of the method are worth: short runs that differ in one thing, beside the same run unchanged.
#
#   scripts/open/ablations.sh <tag>        the tag of a finished scripts/open/train_all.sh
#
# Observer: the backbone is trained from nothing and judged by its joint head. Prior: stage 5 is trained from the
# stages before it. All are validated on the same held-out motions with the full observer; the table is made of the
# runs' own logs. A finished run is not repeated.
set -euo pipefail
cd "$(dirname "$0")/../.."

TAG=${1:?usage: scripts/open/ablations.sh <tag of a finished train_all.sh>}
PYTHON=${PYTHON:-python}
BACKBONE_STEPS=${BACKBONE_STEPS:-1500} VIDEO_STEPS=${VIDEO_STEPS:-150} VIDEO_RATE=${VIDEO_RATE:-3e-4} # few steps: a high rate
RUN=exp/mask_transformer/MIMO-keypoints-$TAG
COMMON="preset=open tag=$TAG trainer.enable_progress_bar=false model.backbone.weights=backbone_pretrain_longer
  model.vqvae.model_path=exp/mesh_vqvae/mesh-vqvae-open-$TAG/tokenizer.safetensors"

ablate() { # <stage> <threads> <steps> <name> [overrides ...]
  local stage=$1 threads=$2 steps=$3 name=$4 folder=$RUN/$1_$4
  shift 4
  [ -e "$folder/finished" ] && return 0
  mkdir -p "$folder"
  OMP_NUM_THREADS=$threads $PYTHON train_mask_transformer.py "option=$stage" "subtag=$name" $COMMON \
    "trainer.max_steps=$steps" "trainer.val_check_interval=$steps" "$@" >"$folder/output.txt" 2>&1
  touch "$folder/finished"
}

backbone() { # <name> [overrides ...]
  ablate backbone_pretrain 1 "$BACKBONE_STEPS" "$@" dataset.draws=3000
}
backbone short &
pid=$!
backbone no_occlusion dataset.occlusion=false
wait $pid
backbone no_detector_noise dataset.detector_noise=false &
pid=$!
backbone no_neighbours "model.backbone.neighbours=[]"
wait $pid
ablate video_train 2 $VIDEO_STEPS short optim.lr=$VIDEO_RATE
ablate video_train 2 $VIDEO_STEPS no_motion_prior optim.lr=$VIDEO_RATE model.dst_former.motion_drop=true
ablate video_train 2 $VIDEO_STEPS no_masking_pretraining optim.lr=$VIDEO_RATE model.motion_ckpt=null model.dst_former.freeze_motion=false

$PYTHON - "$RUN" <<'PYTHON'
import csv, sys
from pathlib import Path

for stage, measures in (
    ("backbone_pretrain", ("val/pa_mpjpe", "val/mpjpe")),
    ("video_train", ("val/full_pa_mpjpe", "val/full_accel", "val/full_fs", "val/inference_pa_mpjpe")),
):
    print(f"\n{stage:40}", *(f"{name.removeprefix('val/'):>18}" for name in measures))
    for folder in sorted(Path(sys.argv[1]).glob(f"{stage}_*")):
        rows = [row for file in folder.glob("logs/*/metrics.csv") for row in csv.DictReader(file.open())]
        last = next((row for row in reversed(rows) if row.get(measures[0])), None)
        if last and (folder / "finished").exists():
            print(f"{folder.name:40}", *(f"{float(last[name]):18.1f}" for name in measures))
PYTHON
