"""Composition, checks and command line (moro/config.py, configs/)."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from moro.config import CONFIG_DIR, ExitOnMoroError, arithmetic, compose_config, slug
from moro.errors import MoroError

STAGES = ("pose_pretrain", "motion_pretrain", "image_pretrain", "video_pretrain", "video_train")
TEST_COMMAND = ["option=[inference,video_train]", "tag=release"]

# spec: models 7.2-7.5: defaults as composed without options (deviations: docs/deviations.md)
DEFAULTS = """
tag default | name MIMO-vit-default | resume false | resume_ckpt null | resume_weights_only false
benchmark null | subtag null | mode train | debug false | dataset.bm_path body_models
dataset.model_type smplx | dataset.clip_len 60 | dataset.normalize false | dataset.canonical true
dataset.batch_size 1 | dataset.num_workers 16 | dataset.num_workers_val 4 | dataset.spacing 1
dataset.recording null | dataset.view null | dataset.body_idx null | dataset.crop_res [256,256]
dataset.flip_prob 0.5 | dataset.rot_factor 30. | dataset.scale_factor 0.3 | dataset.rot_aug_prob 0.6
dataset.trans_factor 0.1 | dataset.extreme_crop_aug true | dataset.extreme_crop_aug_prob 0.1
dataset.extreme_crop_lvl 2 | dataset.extreme_crop_seq_ratio 0.2 | dataset.contact_hand false
dataset.contact_vel_thres 0.3 | dataset.name egobody | dataset.overlap_len 2
dataset.dataset_root datasets/mask_transformer/EgoBody | dataset.gt_bbox false | model.task video
model.num_tokens 87 | model.num_frames 60 | model.num_codes 512 | model.dim_token 9
model.mask_scheme [[-1,random]] | model.mask_tau 1. | model.prob_rid 0.1 | model.prob_mid 1.0
model.scheme_prob {inference: 0.4, random: 0.4, joint: 0.2, frame: 0.2, full: 0.1} | model.opt_token false
model.full_label false | model.use_transl true | model.gumbel true | model.straight_through true
model.temp_start 1.0 | model.temp_end 0.01 | model.temp_end_ratio 1.0 | model.temp_test 0.5
model.mode_list [random,joint,frame] | model.mode random | model.mask_ratio 0.2 | model.motion_ckpt null
model.motion_subtag null | model.image_ckpt null | model.image_subtag null | model.use_smoother false
model.backbone.type vit | model.backbone.freeze false | model.backbone.use_checkpoint false
model.backbone.out_HW [16,12] | model.backbone.out_C 1280 | model.backbone.dim_feat 1024
model.vqvae.model_path ckpt/tokenizer/tokenizer.ckpt | model.vqvae.num_embeddings 512
model.vqvae.embedding_dim 9 | model.vqvae.decay 0.99 | model.vqvae.num_quantizer 1
model.vqvae.shared_codebook false | model.vqvae.num_tokens 87
model.vqvae.meshconv.connection_folder body_models/smplx_ConnectionMatrices
model.vqvae.meshconv.channel_lst [32,32,64,64,128,128,9,128,128,64,64,32,32,3]
model.smoother.num_tokens 87 | model.smoother.dim_in 9 | model.smoother.share_weights true
model.smoother.dim_hidden 64 | model.smoother.kernel_size 5 | model.smoother.num_layers 2
model.dst_former.task video | model.dst_former.freeze false | model.dst_former.freeze_motion false
model.dst_former.freeze_image false | model.dst_former.freeze_spatial false | model.dst_former.dim_out 512
model.dst_former.dim_backbone_feat 1280 | model.dst_former.backbone_HW [16,12]
model.dst_former.dim_feat 1024 | model.dst_former.dim_cano_traj 9 | model.dst_former.dim_cam_traj 9
model.dst_former.dim_contact 4 | model.dst_former.mdepth 4 | model.dst_former.idepth 2
model.dst_former.ddepth 2 | model.dst_former.num_heads 8 | model.dst_former.mlp_ratio 4
model.dst_former.qkv_bias true | model.dst_former.qk_scale null | model.dst_former.drop_rate 0.
model.dst_former.attn_drop_rate 0. | model.dst_former.att_fuse true | model.dst_former.motion_drop false
model.dst_former.image_drop 0. | model.dst_former.learnable_pe true | model.dst_former.img_temporal false
model.dst_former.linear_regress true | model.dst_former.attn_len 60 | model.loss.lambda_ce 1.0
model.loss.focal_gamma 0. | model.loss.lambda_cano_traj 10. | model.loss.lambda_rot 1.
model.loss.traj_loss_type l2 | model.loss.lambda_transl 1. | model.loss.loss_type rmse
model.loss.lambda_v3d_local 10 | model.loss.lambda_j3d_pos 1 | model.loss.lambda_j3d_vel 20
model.loss.lambda_j2d 1 | model.loss.lambda_accel 0. | model.loss.lambda_skating 1.
model.loss.lambda_contact 1.
model.test.generate {timesteps: 5,cond_scale: 1.0,temperature: 1.0,topk: 1,gsample: false,expectation: false}
model.test.visualize false | model.test.save_result true | model.test.render false | optim.lr 1e-5
optim.lr_ratio 0.1 | optim.weight_decay 1e-4 | optim.warmup_steps 2000 | optim.scheduler.name SequentialLR
optim.scheduler.interval step | optim.scheduler.milestones [2000] | trainer.max_steps 150000
trainer.log_every_n_steps 100 | trainer.val_check_interval 15000 | trainer.limit_val_batches 1.0
trainer.check_val_every_n_epoch null | trainer.num_sanity_val_steps 0 | trainer.enable_progress_bar true
trainer.accumulate_grad_batches 1 | trainer.gradient_clip_val 1.0 | trainer.detect_anomaly false
trainer.fast_dev_run false | trainer.precision 32 | wandb false | seed 0 | dataset.test_idx null
compat true
"""

# spec: models 3.12 and 7.8
STAGE_VALUES = {
    "pose_pretrain": """
        dataset.name amass | dataset.clip_len 1 | dataset.batch_size 128 | model.task motion
        model.mode_list [random] | model.loss.lambda_cano_traj 0. | optim.lr 1e-4
        trainer.max_steps 40000 | trainer.val_check_interval 5000 | dataset.noise.train.rot [0.,1.,2.]
    """,
    "motion_pretrain": """
        dataset.name amass | dataset.clip_len 60 | dataset.batch_size 4 | model.task motion
        model.mask_scheme [[-1,random+joint+frame]] | model.motion_ckpt pose_pretrain
        model.use_smoother true | optim.lr 1e-4 | trainer.max_steps 60000
        trainer.val_check_interval 5000 | model.image_ckpt null
    """,
    "image_pretrain": """
        dataset.name mixed | dataset.sub_datasets [coco,h36m,mpi_inf_3dhp,mpii] | dataset.clip_len 1
        dataset.batch_size 64 | model.task image | model.use_transl false
        model.dst_former.motion_drop true | model.mask_scheme [[-1,full]] | optim.lr 1e-5
        trainer.limit_val_batches 10 | trainer.max_steps 40000 | trainer.val_check_interval 2000
    """,
    "video_pretrain": """
        dataset.name mixed | dataset.sub_datasets [egobody,bedlam] | dataset.clip_len 1 | dataset.skip 5
        dataset.overlap_len 0 | dataset.batch_size 64 | model.task image | model.use_transl true
        model.image_ckpt image_pretrain | optim.lr 1e-5 | trainer.max_steps 40000
        trainer.val_check_interval 4000
    """,
    "video_train": """
        dataset.name mixed | dataset.clip_len 60 | dataset.overlap_len 2 | dataset.batch_size 2
        model.task video | model.mask_scheme [[-1,inference+random]]
        model.mode_list [random,full,inference] | model.mode full | model.motion_ckpt motion_pretrain
        model.image_ckpt video_pretrain | model.backbone.freeze true | model.use_smoother true
        model.dst_former.freeze_image true | dataset.extreme_crop_aug_prob 0.2 | optim.lr 1e-5
        trainer.max_steps 60000 | dataset.probs [0.5,0.5]
    """,
}


def check_values(cfg: DictConfig, table: str) -> None:
    for entry in filter(None, (part.strip() for part in re.split(r"[|\n]", table))):
        key, text = entry.split(" ", 1)
        found, expected = OmegaConf.select(cfg, key), OmegaConf.create({"x": _parse(text)}).x
        assert found == expected, f"{key}: {found} instead of {expected}"


def _parse(text: str) -> object:
    return OmegaConf.create(f"x: {text.replace('1e-', '1.0e-')}").x


# --------------------------------------------------------------------------------------------- composition


def test_defaults() -> None:
    check_values(compose_config(), DEFAULTS)


@pytest.mark.parametrize("stage", STAGES)
def test_stages(stage: str) -> None:
    cfg = compose_config("config", [f"option={stage}", "tag=default"])
    check_values(cfg, STAGE_VALUES[stage])
    assert cfg.benchmark == stage and cfg.name == "MIMO-vit-default"


@pytest.mark.parametrize("stage", STAGES)
def test_open_stages(stage: str) -> None:
    cfg = compose_config("config", [f"option={stage}", "preset=open"])
    check_values(
        cfg,
        """
        dataset.name open | dataset.model_type open | model.backbone.type keypoints
        model.vqvae.num_tokens 54 | model.dst_former.dim_feat 128 | model.dst_former.dim_backbone_feat 48
        compat false | model.dst_former.backbone_HW [1,54] | name MIMO-keypoints-default
        model.vqvae.model_path ckpt/open/video_train.safetensors
        """,
    )
    released = compose_config("config", [f"option={stage}"])
    for key in ("benchmark", "model.task", "model.mask_scheme", "model.motion_ckpt"):
        assert OmegaConf.select(cfg, key) == OmegaConf.select(released, key)
    assert (cfg.dataset.clip_len == 1) == (released.dataset.clip_len == 1)  # clips are shorter, frames frames
    assert cfg.trainer.max_steps < released.trainer.max_steps  # the stage's own open values came last
    assert compose_config("config", [f"option={stage}", "preset=open", "optim.lr=7"]).optim.lr == 7


INFERENCE, REVERSED = "[inference,video_train]", "[video_train,inference]"


@pytest.mark.parametrize(
    ("data", "order", "preset"),
    [
        ("egobody", INFERENCE, "release"),
        ("egobody", REVERSED, "release"),
        ("rich", INFERENCE, "release"),
        ("prox", REVERSED, "release"),
        ("egobody", INFERENCE, "open"),
        ("prox", REVERSED, "open"),
    ],
)
def test_documented_test_command(data: str, order: str, preset: str) -> None:
    cfg = compose_config("config", [f"option={order}", "tag=release", f"data={data}", f"preset={preset}"])
    check_values(
        cfg,
        f"""
        mode test | dataset.name {data} | model.mode inference | dataset.clip_len 500
        dataset.batch_size 1 | model.test.save_result true
        model.use_smoother true | benchmark video_train | dataset.test_idx null | wandb false
        """,
    )
    assert cfg.name == ("MIMO-vit-release" if preset == "release" else "MIMO-keypoints-release")
    assert cfg.dataset.overlap_len == (120 if preset == "release" else 2 * cfg.model.dst_former.attn_len)


def test_command_line_beats_windows() -> None:
    cfg = compose_config("config", [*TEST_COMMAND, "dataset.clip_len=64", "dataset.batch_size=3"])
    assert (cfg.dataset.clip_len, cfg.dataset.batch_size, cfg.dataset.overlap_len) == (64, 3, 120)


@pytest.mark.parametrize("overrides", [["option=demo"], [], ["preset=open"], ["option=demo", "preset=open"]])
def test_demo(overrides: list[str]) -> None:
    words = [*overrides, "demo.video_path=a b.mp4", "demo.name=x", "+demo.npz_only=true"]
    cfg = compose_config("demo", words)
    check_values(
        cfg,
        """
        tag release | benchmark video_train | mode test | dataset.name demo | dataset.clip_len 500
        dataset.batch_size 1 | demo.npz_only true | demo.use_bbox true
        demo.render true | demo.render_global true | demo.verbose false | demo.focal_length null
        demo.gender null | model.task video | model.use_smoother true | model.mode inference
        """,
    )
    assert cfg.demo.video_path == "a b.mp4"
    assert cfg.dataset.overlap_len == 2 * cfg.model.dst_former.attn_len  # 120 on release
    expected = "MIMO-keypoints-release" if "preset=open" in overrides else "MIMO-vit-release"
    assert cfg.name == expected


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("data/*.yaml")), ids=lambda path: path.stem)
def test_data_groups(path: Path) -> None:
    cfg = compose_config("config", [f"data={path.stem}"])
    assert cfg.dataset_name == path.stem and cfg.dataset.canonical and not cfg.dataset.normalize


@pytest.mark.parametrize("option", ["null", "visualize", "[visualize,motion_pretrain]"])
def test_other_options(option: str) -> None:
    compose_config("config", [f"option={option}"])


@pytest.mark.parametrize("overrides", [[], ["preset=open"], ["resume=true", "mode=test"], ["meshconv=full"]])
def test_tokenizer_tree(overrides: list[str]) -> None:
    assert compose_config("mesh_vq_vae/config", overrides).dataset.canonical


@pytest.mark.parametrize("idx", ["null", "[0,3]", "-1 dataset.recording=r dataset.view=v dataset.body_idx=1"])
def test_test_selection(idx: str) -> None:
    first, *rest = f"dataset.test_idx={idx}".split()
    compose_config("config", [*TEST_COMMAND, "data=egobody", first, *rest])


# --------------------------------------------------------------------------------------------- the checks


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("modle.task=motion", "model.task"),
        ("trainer.max_stps=3", "trainer.max_steps"),
        ("lr=3", "optim.lr"),
        ("++model.lambda_ce=1", "model.loss.lambda_ce"),
        ("+datset.batch_size=1", "dataset.batch_size"),
        ("~model.dst_former.mdpth", "model.dst_former.mdepth"),
        ("model.loss={lambda_cee: 3}", "model.loss.lambda_ce"),
        ("demo.npzonly=true", "demo.npz_only"),
        ("presett=open", "preset"),
        ("tag.x=1", "tag"),
    ],
)
def test_unknown_keys_name_the_nearest(line: str, nearest: str) -> None:
    with pytest.raises(MoroError, match=f"did you mean '{nearest}'"):
        compose_config("config", [line])


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("dataset.batch_size=abc", "must be a number"),
        ("dataset.batch_size=true", "must be a number"),
        ("debug=3", "must be true or false"),
        ("model.mode_list=random", "must be a list"),
        ("model.loss=3", "must be a group"),
        ("data=nothing", "data/nothing"),
        ("option=nothing", "option/nothing"),
        ("nonsense", "write key=value"),
        ("dataset.batch_size=${eval:1+}", "cannot compute"),
        ("dataset.batch_size=${dataset.nothing}", "nothing"),
    ],
)
def test_bad_values_are_explained(line: str, part: str) -> None:
    with pytest.raises(MoroError, match=part.replace("+", r"\+")):
        compose_config("config", [line])


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("+seed=3", "seed", 3),
        ("++seed=3", "seed", 3),
        ("+option=video_train", "benchmark", "video_train"),
        ("trainer.strategy=ddp", "trainer.strategy", "ddp"),
        ("+trainer.strategy=ddp", "trainer.strategy", "ddp"),
        ("trainer.precision=bf16-mixed", "trainer.precision", "bf16-mixed"),
        ("dataset.noise={train: null}", "dataset.noise.train", None),
        ("tag=2024", "tag", 2024),
        ("dataset.test_idx=[0,3]", "dataset.test_idx", [0, 3]),
        ("optim.scheduler={name: ExponentialLR, args: {gamma: 0.9}}", "optim.scheduler.args.gamma", 0.9),
    ],
)
def test_accepted_spellings(line: str, key: str, value: object) -> None:
    assert OmegaConf.select(compose_config("config", [line]), key) == value


def test_scheduler_can_be_removed() -> None:
    assert compose_config("config", ["~optim.scheduler"]).optim.get("scheduler") is None


def test_schedule_follows_steps_and_rates() -> None:
    cfg = compose_config("config", ["option=video_train", "trainer.max_steps=100", "optim.warmup_steps=10"])
    cosine = cfg.optim.scheduler.schedulers[1].args
    assert cosine.T_max == 90 and math.isclose(cosine.eta_min, 1e-6)
    assert cfg.optim.scheduler.milestones == [10]
    assert compose_config("config", ["dataset.contact_hand=true"]).model.dst_former.dim_contact == 6


# ------------------------------------------------------------------------------------------- small helpers


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 + 2 * 3", 7), ("-2 ** 2", -4), ("(1 + 2) // 2", 1), ("7 / 2", 3.5), ("max(1, -3)", 1)],
)
def test_arithmetic(text: str, value: float) -> None:
    assert arithmetic(text) == value
    assert arithmetic(*text.split(",")) == value  # OmegaConf splits at commas


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_arithmetic_of_floats(a: float, b: float) -> None:
    assert arithmetic(f"{a} - ({b}) * 2") == a - b * 2


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "a", "1 +", "().__class__", "'x' * 3", "9 ** 9 ** 9", "1 / 0", "print(1)", "min()"],
)
def test_arithmetic_refuses_everything_else(text: str) -> None:
    with pytest.raises(MoroError, match="cannot compute"):
        arithmetic(text)


def test_files_that_cannot_be_used_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit), ExitOnMoroError():
        (tmp_path / "file" / "below").mkdir()
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(OSError, match="no file"), ExitOnMoroError():
        raise OSError("no file is named here")  # a defect: its traceback is wanted


def test_slug() -> None:
    assert slug("timm/vit_base.x y") == "timm-vit_base.x-y"
    cfg = compose_config("config", ["model.backbone.type=timm/abc"])
    assert cfg.name == "MIMO-timm-abc-default"


# --------------------------------------------------------------------------------------- as a command line

SCRIPT = """
from moro.config import hydra_main
from moro.errors import MoroError

@hydra_main(config_path={configs!r}, config_name="config")
def main(cfg):
    import torch
    if cfg.tag == "bad":
        raise MoroError("it is\\nbad")
    print(cfg.tag, cfg.seed, int(torch.randint(1000, ())))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(configs=str(CONFIG_DIR)))
    return path


def run(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(CONFIG_DIR.parent)}
    command = [sys.executable, script.name, *words]
    return subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True)


def test_multirun_and_seed(script: Path) -> None:
    result = run(script, "-m", "tag=a,b", "+seed=5")
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith(("a 5", "b 5"))]
    assert result.returncode == 0, result.stderr
    assert [line[0] for line in lines] == ["a", "b"] and lines[0][2] == lines[1][2]


@pytest.mark.parametrize(
    ("word", "message"), [("tag=bad", "error: it is bad"), ("lr=1", "did you mean 'optim.lr'")]
)
def test_errors_are_one_line(script: Path, word: str, message: str) -> None:
    result = run(script, word)
    assert result.returncode == 1
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
