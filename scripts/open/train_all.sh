#!/usr/bin/env bash
# Train the open model from raw motion files: data, tokenizer, backbone, five stages, weights for ckpt/open.
#
#   scripts/open/train_all.sh <folder of motion files> [tag]        (docs/data_open.md says where motion comes from)
#
# A finished stage is not repeated and an interrupted one goes on where it was: call it again. Stages that do not
# need one another run side by side, one thread each: their operations are too small for two threads to share.
set -euo pipefail
cd "$(dirname "$0")/../.."

SOURCE=${1:?usage: scripts/open/train_all.sh <folder of motion files> [tag]}
TAG=${2:-open}
PYTHON=${PYTHON:-python}
TOKENIZER=exp/mesh_vqvae/mesh-vqvae-open-$TAG
RUN=exp/mask_transformer/MIMO-keypoints-$TAG
COMMON="preset=open tag=$TAG trainer.enable_progress_bar=false"
STAGE="$COMMON model.vqvae.model_path=$TOKENIZER/tokenizer.safetensors model.backbone.weights=backbone_pretrain_longer"

# run <folder of the run> <threads> <python arguments ...>: once, resumed if interrupted; wall time to <folder>/times.txt
run() {
  local folder=$1 threads=$2 resume=false start
  shift 2
  [ -e "$folder/finished" ] && return 0
  [ -e "$folder/checkpoints/last.ckpt" ] && resume=true
  mkdir -p "$folder"
  start=$(date +%s)
  echo "$(date +%T) $folder (resume=$resume)"
  OMP_NUM_THREADS=$threads $PYTHON "$@" resume=$resume >>"$folder/output.txt" 2>&1
  echo "$(($(date +%s) - start)) s" >>"$folder/times.txt"
  touch "$folder/finished"
}

stage() { # <stage> <threads> [overrides ...]
  local name=$1 threads=$2
  shift 2
  run "$RUN/$name" "$threads" train_mask_transformer.py "option=$name" $STAGE "$@"
}

cache() { OMP_NUM_THREADS=1 $PYTHON scripts/open/cache_motion.py $STAGE "$@"; }

# The backbone begins while there is no tokenizer yet; then it goes on with mesh tokens as a target, too.
backbone() {
  local folder=$RUN/backbone_pretrain_longer
  local start="resume_weights_only=true resume_ckpt=$RUN/backbone_pretrain/checkpoints/last.ckpt"
  [ -e "$folder/checkpoints/last.ckpt" ] && start= # interrupted: from its own
  run "$folder" 1 train_mask_transformer.py option=backbone_pretrain subtag=longer $STAGE trainer.max_steps=32000 $start
}

[ -e datasets/open/motion/index.json ] || $PYTHON scripts/preprocess/process_mocap.py --source "$SOURCE"

# no && below: it would switch `set -e` off
{ cache dataset.cache_tokens=false; stage backbone_pretrain 1 dataset.cache_tokens=false; } &
pid=$!
run "$TOKENIZER" 1 train_mesh_vqvae.py $COMMON
cache # token ids
wait $pid

{ backbone; stage image_pretrain 1; stage video_pretrain 1; } &
pid=$!
stage pose_pretrain 1
stage motion_pretrain 1
wait $pid
stage video_train 2

convert() { # <stage> <name of the file> [options ...]
  $PYTHON scripts/convert_checkpoint.py "$RUN/$1/checkpoints/last.ckpt" "$RUN/$2.safetensors" --half "${@:3}"
}
convert video_pretrain video_pretrain
convert video_train video_train
# Weights between the start and the end of stage 5 are a little better than either (docs/experiments.md).
run "$RUN/video_train_start" 1 train_mask_transformer.py option=video_train subtag=start $STAGE trainer.max_steps=1 \
  optim.lr=0 trainer.limit_val_batches=0
convert video_train_start video_train_start
$PYTHON scripts/average_weights.py "$RUN"/{video_train_start,video_train,video_train_average}.safetensors --share 0.6
echo "weights: $TOKENIZER/tokenizer.safetensors $RUN/{video_pretrain,video_train_average}.safetensors"
