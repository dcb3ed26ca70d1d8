"""The masked transformer: numeric anchors, exact shortcuts, flags."""

import copy

import pytest
import torch
from torch import Tensor

from models.mask_transformer.network import (
    MaskTransformer,
    MotionImageTransformer,
    TransformerOutput,
    sine_encoding,
    without_features,
)
from models.mask_transformer.smoother import TokenSmoother
from moro.errors import MoroError
from moro.geometry.trajectory import TrajectoryStats
from tests.mask_transformer.anchor_fill import fill, small_inputs, small_network, wave

RELEASE = {"num_tokens": 87, "dim_in": 9, "dim_out": 512}


def close(actual: Tensor, expected: list[float] | float, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected).flatten(), rtol=0, atol=tolerance)


def test_anchor_c_sine_encoding() -> None:
    table = sine_encoding(2, 3, 8).view(2, 3, 8)  # (rows*columns, dim) -> (rows, columns, dim)
    close(table[0, 1], [0.000001, -1.0, 0.031411, 0.999507, -0.866025, -0.500001, 0.041876, 0.999123])
    close(table[1, 2], [-0.000003, 1.0, 0.062790, 0.998027, -0.000002, 1.0, 0.062790, 0.998027])


def run_small() -> TransformerOutput:
    with torch.no_grad():
        return small_network("video")(*small_inputs())


def test_anchor_f_video() -> None:
    network = small_network("video")
    assert len(list(network.parameters())) == 138
    output = run_small()
    assert output.logits.shape == (1, 7, 4, 5)
    close(output.logits.mean(), -0.036966)
    close(output.logits.std(correction=0), 1.353012)
    first = [0.719798, -0.274357, -0.702059, -1.349303, -0.337265, 0.826531, 0.863205]
    close(output.logits[0, :, 0, 0], first)
    weak = [0.994880, 0.617077, -0.360288, -0.408704, -0.890170, -0.367541, 0.732537, 0.548079, 0.624138]
    close(output.weak[0, 0], weak)
    coarse = [0.812214, 0.503778, -0.294137, 0.171339, -0.687985, -0.705208, -0.557630, 0.522383, -0.645108]
    close(output.rotation_coarse[0, 0], coarse)
    close(output.translation_coarse[0, 0], [0.579989, 0.739359, 1.606189])
    cano = [1.999995, -0.017642, -0.031878, -0.036787, 1.066643, -0.056443, -0.151912, 0.169232, -0.253206]
    close(output.cano_input[0, 0], cano)
    cano = [0.398526, 1.247618, 0.580930, -0.529370, -0.660072, -1.059883, -0.215760, 0.968332, 0.741803]
    close(output.cano_traj[0, 3], cano)
    close(output.contact[0, 1], [-1.336244, -0.419962, 0.554560, 1.825966])
    close(output.rotation[0, 2, 0], [-0.741140, -0.482737, 0.466558])
    close(output.translation[0, 2], [-0.656215, -1.221217, -0.091137])


def test_anchor_f_second_iteration() -> None:
    network, first = small_network("video"), run_small()
    cano_input = network.canonical_input(first.rotation, first.translation)
    second = network(small_inputs()[0], image=first.image, cano_input=cano_input)
    expected = [0.717909, -0.275489, -0.701578, -1.347572, -0.335591, 0.826883, 0.861970]
    close(second.logits[0, :, 0, 0], expected)
    close(second.translation[0, 2], [-0.656164, -1.221238, -0.091213])


def test_anchor_f_motion_and_image() -> None:
    tokens, cond, bbox = small_inputs()
    motion = small_network("motion")(tokens, cano_input=run_small().cano_input)
    expected = [0.417403, -0.086735, -0.166148, -0.869923, -0.276535, 0.422736, 0.299908]
    close(motion.logits[0, :, 0, 0], expected)
    expected = [0.126417, -0.405293, -0.094651, -0.485126, -0.015790, 0.580672, 0.091641, 0.280161, -0.091207]
    close(motion.cano_traj[0, 0], expected)
    image = small_network("image")(cond=cond, bbox=bbox)
    expected = [-0.310466, -0.418088, 0.149315, -0.145942, 0.309077, 0.427614, -0.279633]
    close(image.logits[0, :, 0, 0], expected)
    assert image.contact.shape == (1, 4, 4) and image.cano_traj is None


def test_anchor_i_smoother() -> None:
    smoother = fill(TokenSmoother(num_tokens=2, dim_in=2, dim_hidden=3))
    output = smoother(wave(1, 0.9, 0, (1, 4, 2, 2)))
    close(output[0, :, 0, 0], [0.003074, -0.430715, 0.782255, -0.968806])


def test_joint_smoother_has_all_tokens_as_channels() -> None:
    smoother = TokenSmoother(num_tokens=3, dim_in=2, dim_hidden=4, share_weights=False)
    assert smoother.net[0].weight.shape == (4, 6, 5) and smoother.alpha.item() == pytest.approx(0.1)
    assert smoother(torch.randn(2, 1, 3, 2)).shape == (2, 1, 3, 2)


# Shortcuts that must not change the result


@pytest.mark.parametrize("task", ["video", "image"])
def test_skipping_unread_tokens_changes_nothing(task: str) -> None:
    tokens, cond, bbox = small_inputs(frames=7, batch=2)
    results = []
    for skip in (True, False):
        network = small_network(task, ddepth=2, skip_unread=skip)
        output = network(tokens, cond, bbox)
        parts = [output.logits, output.rotation, output.translation]
        sum(part.square().sum() for part in parts).backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        results.append((parts, gradients))
    for fast, plain in zip(results[0][0], results[1][0]):
        torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-6)
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], rtol=1e-4, atol=1e-4, msg=name)


def test_image_encoding_is_per_frame() -> None:
    network = small_network("video")
    _, cond, bbox = small_inputs(frames=6)
    whole = network.encode_image(cond, bbox)
    part = network.encode_image(cond[:, 2:5], bbox[:, 2:5])
    for a, b in zip(whole, part):
        torch.testing.assert_close(a[:, 2:5], b)


def test_single_frame_equals_its_plain_attention() -> None:
    """One frame skips the softmax of temporal attention, which is 1."""
    network = small_network("motion")
    tokens = small_inputs(frames=1)[0]
    cano = torch.zeros(1, 1, 9)
    alone = network(tokens, cano_input=cano).logits
    block = network.m_transformer.blocks_st[0].attn_t
    x = torch.randn(1, 1, 6, 16)
    plain = block.proj(block.qkv(x)[..., 32:])
    torch.testing.assert_close(block(x, network.m_transformer.rotary), plain)
    assert torch.isfinite(alone).all()


def test_validation_before_training_leaves_nothing_behind() -> None:
    """Tables made in inference mode could not be used with gradients."""
    network = small_network("video")
    inputs = small_inputs(frames=70)
    with torch.inference_mode():
        network(*inputs)
    network(*inputs).logits.square().sum().backward()


def test_trajectories_keep_full_precision_under_autocast() -> None:
    network = small_network("video", dim_feat=64)
    inputs = small_inputs()
    image = network.encode_image(*inputs[1:])
    with torch.autocast("cpu", torch.bfloat16):
        output = network(inputs[0], image=image)
    assert output.logits.dtype == torch.bfloat16
    assert output.translation.dtype == output.rotation.dtype == output.cano_traj.dtype == torch.float32
    torch.testing.assert_close(output.cano_input, network(inputs[0], image=image).cano_input, rtol=0, atol=0)


def test_inputs_are_not_edited() -> None:
    network = small_network("video")
    inputs = small_inputs()
    before = [value.clone() for value in inputs]
    network(*inputs)
    for value, copy_ in zip(inputs, before):
        assert torch.equal(value, copy_)


# Flags


@pytest.mark.parametrize(
    ("flag", "absent", "present"),
    [
        ({"learnable_pe": False}, "m_pos_enc", None),
        ({"linear_regress": False}, "img_traj_regressor.weight", "d_contact_regressor.fc2.weight"),
        (
            {"img_temporal": True},
            "img_transformer.transformer.layers.0.norm1.weight",
            "img_transformer.blocks_ts.0.attn_t.qkv.weight",
        ),
        ({"att_fuse": False}, "d_transformer.ts_attn.0.weight", None),
        ({"qkv_bias": False}, "m_transformer.blocks_st.0.attn_s.qkv.bias", None),
        ({"dim_contact": 6}, None, "m_contact_regressor.weight"),
        ({"drop_rate": 0.1, "attn_drop_rate": 0.1}, None, None),
        ({"qk_scale": 0.3, "mlp_ratio": 2}, None, None),
    ],
)
def test_flags_run_in_training(flag: dict, absent: str | None, present: str | None) -> None:
    network = small_network("video", **flag).train()
    names = network.state_dict().keys()
    assert absent not in names and (present is None or present in names)
    output = network(*small_inputs())
    assert output.contact.shape[-1] == flag.get("dim_contact", 4)
    output.logits.square().mean().backward()
    assert network.m_token_embed.weight.grad is not None


def test_checkpointing_gives_the_same_gradients() -> None:
    plain, saving = (small_network("video", use_checkpoint=flag).train() for flag in (False, True))
    for network in (plain, saving):
        output = network(*small_inputs())
        (output.logits.square().mean() + output.translation.sum()).backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(("tokens", "grid", "frames"), [(1, (1, 1), 1), (54, (1, 33), 3), (2, (3, 2), 5)])
def test_any_size(tokens: int, grid: tuple[int, int], frames: int) -> None:
    network = small_network("video", num_tokens=tokens, backbone_HW=grid)
    shape = (2, frames)
    output = network(
        torch.randn(*shape, tokens, 3), torch.randn(*shape, grid[0] * grid[1], 6), torch.rand(*shape, 3)
    )
    assert output.logits.shape == (2, 7, frames, tokens)
    assert output.translation.shape == (2, frames, 1, 3) and output.rotation.shape == (2, frames, 3, 3)
    assert torch.isfinite(output.logits).all()


def test_aligned_image_tokens_are_added_to_their_mesh_tokens() -> None:
    network = small_network("video", aligned=True, backbone_HW=(1, 5))
    tokens, bbox = small_inputs()[::2]
    cond = wave(1, 0.8, 0.3, (1, 4, 5, 6))
    output = network(tokens, cond, bbox)
    motion = output.motion._replace(pose=output.motion.pose + output.image.features)
    added = network.decode(motion, without_features(output.image))
    torch.testing.assert_close(output.logits, added.logits)
    image = small_network("image", aligned=True, backbone_HW=(1, 5))
    assert torch.isfinite(image(cond=cond, bbox=bbox).logits).all()
    with pytest.raises(MoroError, match=r"out_HW=\[1,5\]"):
        small_network("image", aligned=True)


def test_aligned_camera_reads_every_image_token_with_its_own_weights() -> None:
    former = small_network("image", aligned=True, backbone_HW=(1, 5))
    with torch.no_grad():
        former.img_transformer = torch.nn.Identity()
        former.img_camera_embed.weight.zero_()
        former.img_camera_embed.weight[0, 6 * 3 + 2] = 1  # token 3, channel 2
        former.img_traj_regressor.weight.zero_()
        former.img_traj_regressor.weight[6, 0] = 1
    cond, bbox = wave(1, 0.8, 0.3, (1, 4, 5, 6)), torch.zeros(1, 4, 3)
    encoding = former.encode_image(cond, bbox + torch.tensor([0.0, 0.0, 0.2]))
    before = former.encode_image(torch.zeros_like(cond), bbox + torch.tensor([0.0, 0.0, 0.2]))
    torch.testing.assert_close((encoding.weak - before.weak)[..., 6], cond[:, :, 3, 2])


def test_motion_drop_hides_motion_and_passes_the_target() -> None:
    network = small_network("video", motion_drop=True)
    tokens, cond, bbox = small_inputs()
    target = torch.randn(1, 4, 9)
    one = network(tokens, cond, bbox, cano_target=target)
    two = network(tokens + 1, cond, bbox, cano_target=target)
    assert one.cano_traj is target and torch.equal(one.logits, two.logits)


def test_image_drop_only_in_training() -> None:
    network = small_network("video", image_drop=1.0)
    inputs = small_inputs()
    seeing, blind = network(*inputs).logits, network.train()(*inputs)
    assert not torch.allclose(seeing, blind.logits)
    decoded = network.decode(blind.motion, without_features(blind.image))
    assert torch.equal(blind.logits, decoded.logits)
    torch.testing.assert_close(blind.rotation_coarse, network.eval()(*inputs).rotation_coarse)


def test_canonical_input_is_detached_and_camera_token_is_not() -> None:
    network = small_network("video")
    output = network(*small_inputs())
    assert not output.cano_input.requires_grad
    output.rotation.square().sum().backward()
    assert network.img_traj_regressor.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("linear_regress", [True, False])
def test_a_joined_motion_encoder_starts_quiet_and_predicts_as_before(linear_regress: bool) -> None:
    torch.manual_seed(0)
    tokens, cond, bbox = small_inputs()
    network = small_network("video", linear_regress=linear_regress)
    image = network.encode_image(cond[:, :1], bbox[:, :1])  # a single frame
    nothing = torch.zeros_like(tokens[:, :1]), torch.zeros_like(run_small().cano_input[:, :1])
    alone = network.decode(None, image)
    before = network.encode_motion(tokens, run_small().cano_input)
    network.join_motion(0.2)
    after = network.encode_motion(tokens, run_small().cano_input)
    torch.testing.assert_close(after.pose, before.pose * 0.2, atol=5e-3, rtol=0)
    torch.testing.assert_close(after.cano_traj, before.cano_traj, atol=2e-3, rtol=1e-3)
    joined = network.decode(network.encode_motion(*nothing), image)
    torch.testing.assert_close(joined.logits, alone.logits, atol=1e-4, rtol=1e-4)  # goes on where it was
    frame = network.d_transformer.blocks_st[0].attn_t
    x = torch.randn(1, 9, 1, frame.proj.in_features)
    changed = x.clone()
    changed[:, 0] += 1  # the first frame
    rotary = network.d_transformer.rotary
    felt = (frame(changed, rotary) - frame(x, rotary)).norm(dim=-1)[0, :, 0]
    assert felt[:3].max() > 3 * felt[6:].max()  # nearby frames count


def test_freezing() -> None:
    network = small_network("video", drop_rate=0.5)
    network.freeze(motion=True, image=True)
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trainable and all(name.startswith("d_") for name in trainable)
    network.train()
    assert not network.m_transformer.training and network.d_transformer.training
    spatial = small_network("video", img_temporal=True)
    spatial.freeze(spatial=True)
    frozen = {name for name, p in spatial.named_parameters() if not p.requires_grad}
    assert frozen and all(".attn_s." in name and name.startswith(("img_", "d_")) for name in frozen)
    post_norm = small_network("video")
    post_norm.freeze(spatial=True)
    assert not post_norm.img_transformer.transformer["layers"][0].self_attn.in_proj_weight.requires_grad
    everything = small_network("image")
    everything.freeze(everything=True)
    assert not any(p.requires_grad for p in everything.parameters())


def test_initialisation() -> None:
    """0.02 at the released width of 1024, more where the network is narrower."""
    std = 0.02 * (1024 / 64) ** 0.5
    network = MotionImageTransformer(
        "video", **{**RELEASE, "num_tokens": 5}, dim_feat=64, dim_backbone_feat=32
    )
    linear = network.m_transformer.blocks_st[0].mlp_s.fc1
    assert linear.weight.std().item() == pytest.approx(std, rel=0.05) and not linear.bias.any()
    assert network.m_transformer.ts_attn[0].weight.std().item() == pytest.approx(std, rel=0.2)
    assert network.d_pos_enc.std().item() == pytest.approx(std, rel=0.2)
    in_proj = network.img_transformer.transformer["layers"][0].self_attn.in_proj_weight
    assert in_proj.std().item() == pytest.approx((2 / (64 + 192)) ** 0.5, rel=0.05)  # xavier uniform


# The token table


def table(opt_token: bool) -> MaskTransformer:
    network = MaskTransformer(small_network("motion"), opt_token)
    network.load_codebook(wave(1, 0.7, 0, (7, 3)))
    return network


def test_mask_row() -> None:
    fixed, learned = table(False), table(True)
    assert not fixed.token_emb.weight.requires_grad and not fixed.embed(torch.tensor(fixed.mask_id)).any()
    assert learned.token_emb.weight[-1].any()
    ids = torch.tensor([[[0, 1, 2, 7, 7]]])
    learned(ids, cano_input=torch.zeros(1, 1, 9)).logits.square().sum().backward()
    gradient = learned.token_emb.weight.grad
    assert not gradient[:-1].any() and gradient[-1].any()
    learned.load_codebook(torch.ones(7, 3), mask_row=torch.full((3,), 2.0))
    assert torch.equal(learned.token_emb.weight[-1], torch.full((3,), 2.0))


def test_copies_keep_working() -> None:
    network = table(True)
    ids = torch.randint(0, 8, (1, 3, 5))
    cano = torch.randn(1, 3, 9)
    twin = copy.deepcopy(network)
    assert torch.equal(network(ids, cano_input=cano).logits, twin(ids, cano_input=cano).logits)


# Bad input


def test_errors_say_what_to_do() -> None:
    with pytest.raises(MoroError, match="model.task"):
        MotionImageTransformer("videos", **RELEASE)
    with pytest.raises(MoroError, match="not divisible"):
        small_network("motion", dim_feat=15)
    with pytest.raises(MoroError, match="even"):
        small_network("motion", dim_feat=6, num_heads=2)
    network = small_network("video")
    tokens, cond, bbox = small_inputs()
    with pytest.raises(MoroError, match="image tokens"):
        network(tokens, cond[:, :, :3], bbox)
    with pytest.raises(MoroError, match="tokens per frame"):
        network(tokens[:, :, :4], cond, bbox)
    network.trajectory_stats = None
    with pytest.raises(MoroError, match="amass_cum_traj"):
        network(tokens, cond, bbox)
    with pytest.raises(MoroError, match="below"):
        network.set_trajectory_stats(TrajectoryStats(torch.zeros(9), torch.zeros(9)))
    with pytest.raises(MoroError, match="num_embeddings"):
        table(False).load_codebook(torch.zeros(6, 3))
    with pytest.raises(MoroError, match="odd"):
        TokenSmoother(2, 2, kernel_size=4)
