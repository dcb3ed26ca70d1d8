"""Keys that change how a run is computed, not what: compilation, sharding, strategies."""

import pytest
import torch

from models.distributed import build_trainer, means_over_processes, shard_of
from moro.config import compose_config
from moro.errors import MoroError
from tests.mask_transformer.fake_data import FakeDataModule, small_config, small_system
from tests.mask_transformer.test_system import first_batch

QUIET = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}


def test_compiled_blocks_compute_the_same() -> None:
    """By the front end of torch.compile alone; code generation takes minutes."""
    cfg = small_config("video_train", "compile=eager")
    data, plain, compiled = FakeDataModule(cfg), small_system(cfg), small_system(cfg)
    compiled.compile_blocks(cfg.compile)
    image_blocks = cfg.model.dst_former.idepth
    assert len(compiled.repeated_blocks()) == 4 + image_blocks  # two streams in each of two parts of depth 1
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    found = []
    for system in (plain, compiled):
        system.set_trajectory_stats(data.trajectory_stats())
        output, _ = system.masked_pass(system.prepare(first_batch(data)), "full", training=True)
        output.logits.square().mean().backward()
        grads = [p.grad for p in system.parameters() if p.grad is not None]
        found.append([output.logits, output.translation, *grads])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)


def test_strategies() -> None:
    cfg = compose_config("config", ["option=video_pretrain", "trainer.strategy=fsdp"])
    sharded = build_trainer(devices=2, strategy=cfg.trainer.strategy, **QUIET)
    assert type(sharded.strategy).__name__ == "ModelParallelStrategy"
    parallel = build_trainer(find_unused=True, devices=2, **QUIET)
    assert type(parallel.strategy).__name__ == "DDPStrategy"
    assert parallel.strategy._ddp_kwargs["forward_sync_buffers"] is False
    assert type(build_trainer(devices=1, **QUIET).strategy).__name__ == "SingleDeviceStrategy"


def test_a_learned_mask_token_cannot_be_sharded() -> None:
    system = small_system(small_config("video_train", "model.opt_token=true"))
    system._device_mesh = object()
    with pytest.raises(MoroError, match="opt_token"):
        system.configure_model()


def test_shares_of_a_data_set() -> None:
    assert sorted(n for rank in range(3) for n in shard_of(8, rank, 3)) == list(range(8))
    with pytest.raises(MoroError, match="2 samples cannot be shared by 3"):
        shard_of(2, 0, 3)
    values = {"a": torch.tensor(1.0)}
    assert means_over_processes(values) == values
