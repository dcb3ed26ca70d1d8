"""Decoding in confidence order (spec: models 6.1, 6.2)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.mask_transformer import decoding
from models.mask_transformer.decoding import DecodingOptions, generate, masked_counts, num_passes, sample
from models.mask_transformer.network import MaskTransformer, TransformerOutput, without_features
from moro.errors import MoroError
from tests.mask_transformer.anchor_fill import small_inputs, small_network, wave


def network(task: str = "video") -> MaskTransformer:
    built = MaskTransformer(small_network(task))
    built.load_codebook(wave(1, 0.7, 0, (7, 3)))
    return built.eval()


def all_masked(batch: int = 1, frames: int = 4) -> Tensor:
    return torch.full((batch, frames, 5), 7)


@pytest.fixture
def seen_ids(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The ids of each pass."""
    record: list[Tensor] = []
    plain = decoding.guided_pass

    def spy(net: MaskTransformer, ids: Tensor, *rest: object) -> TransformerOutput:
        record.append(ids)
        return plain(net, ids, *rest)

    monkeypatch.setattr(decoding, "guided_pass", spy)
    return record


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (87, [87, 79, 57, 30, 8]),
        (5220, [5220, 4722, 3417, 1803, 498]),
        (43500, [43500, 39346, 28471, 15029, 4154]),
    ],
)
def test_schedule_examples(total: int, expected: list[int]) -> None:
    counts = [masked_counts(torch.tensor([total]), step, 5).item() for step in range(5)]
    assert counts == expected


def test_number_of_passes() -> None:
    masked = torch.zeros(2, 100, dtype=torch.bool)
    assert num_passes(masked, 5) == 1
    masked[:, :20] = True
    assert num_passes(masked, 5) == 1
    assert num_passes(~masked, 5) == 4
    assert num_passes(torch.ones_like(masked), 5) == 5


@settings(max_examples=6, deadline=None)
@given(share=st.floats(0, 1), timesteps=st.integers(1, 8), seed=st.integers(0, 50))
def test_kept_tokens_are_never_masked_again(share: float, timesteps: int, seed: int) -> None:
    net = network()
    generator = torch.Generator().manual_seed(seed)
    given_ids = torch.randint(7, (2, 4, 5), generator=generator)
    hidden = torch.rand(2, 4, 5, generator=generator) < share
    ids = given_ids.masked_fill(hidden, 7)
    _, cond, bbox = small_inputs(batch=2)
    record: list[Tensor] = []
    plain = net.forward
    net.forward = lambda seen, *a, **k: record.append(seen) or plain(seen, *a, **k)
    result = generate(net, ids, cond, bbox, options=DecodingOptions(timesteps=timesteps))
    assert torch.equal(result.masked_ids, ids) and (result.ids < 7).all()
    assert torch.equal(result.ids[~hidden], given_ids[~hidden]) and (result.confidence[~hidden] == 1).all()
    masks = [seen == 7 for seen in record]
    assert torch.equal(masks[0], hidden)
    for earlier, later in zip(masks, masks[1:]):
        assert not (later & ~earlier).any()
    assert ((result.confidence > 0) & (result.confidence <= 1)).all()


def test_passes_mask_by_the_schedule(seen_ids: list[Tensor]) -> None:
    _, cond, bbox = small_inputs(frames=8)
    generate(network(), all_masked(frames=8), cond, bbox)
    assert [int((ids == 7).sum()) for ids in seen_ids] == [40, 36, 26, 14, 4]


def test_first_pass_masks_the_least_certain_and_ties_by_index(seen_ids: list[Tensor]) -> None:
    net = network()
    with torch.no_grad():
        net.dst_former.d_pose_regressor.weight.zero_()  # all positions equally certain
    _, cond, bbox = small_inputs()
    generate(net, all_masked(), cond, bbox, options=DecodingOptions(timesteps=2))
    assert (seen_ids[1] == 7).flatten().tolist() == [True] * 10 + [False] * 10


def test_image_is_encoded_once_and_trajectory_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    tokens, cond, bbox = small_inputs()
    image = net.dst_former.encode_image(cond, bbox)
    one = generate(net, all_masked(), cond, bbox)
    monkeypatch.setattr(net.dst_former, "encode_image", None)  # must not be called
    two = generate(net, all_masked(), image=image)
    assert torch.equal(one.ids, two.ids) and torch.equal(one.output.translation, two.output.translation)
    short = generate(net, all_masked(), image=image, options=DecodingOptions(timesteps=1))
    assert torch.equal(
        short.output.cano_input, net.dst_former.canonical_input(image.rotation, image.translation)
    )
    assert not torch.equal(two.output.cano_input, short.output.cano_input)


@pytest.mark.parametrize("task", ["motion", "image"])
def test_other_tasks_decode(task: str) -> None:
    _, cond, bbox = small_inputs()
    inputs = {"cano_input": torch.randn(1, 4, 9)} if task == "motion" else {"cond": cond, "bbox": bbox}
    result = generate(network(task), all_masked(), **inputs)
    assert (result.ids < 7).all()


def test_guidance() -> None:
    net = network()
    _, cond, bbox = small_inputs()
    image = net.dst_former.encode_image(cond, bbox)
    ids = all_masked()
    plain = decoding.guided_pass(net, ids, image, None, 1.0)
    blind = net.dst_former.decode(plain.motion, without_features(image)).logits
    torch.testing.assert_close(decoding.guided_pass(net, ids, image, None, 0.0).logits, blind)
    strong = decoding.guided_pass(net, ids, image, None, 3.0)
    torch.testing.assert_close(strong.logits, blind + 3 * (plain.logits - blind), rtol=1e-5, atol=1e-5)
    assert torch.equal(strong.translation, plain.translation)
    generate(net, ids, cond, bbox, options=DecodingOptions(cond_scale=2.0))
    with pytest.raises(MoroError, match="cond_scale"):
        generate(network("image"), ids, cond, bbox, options=DecodingOptions(cond_scale=2.0))


@pytest.mark.parametrize("gsample", [False, True])
def test_sampling_follows_the_tempered_softmax(gsample: bool) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -5.0]).expand(20_000, 4)
    options = DecodingOptions(topk=3, temperature=2.0, gsample=gsample)
    codes = sample(logits, options, torch.Generator().manual_seed(0))
    shares = torch.bincount(codes, minlength=4) / len(codes)
    expected = torch.tensor([2.0, 1.0, 0.0, -torch.inf]).div(2).softmax(0)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.015)


def test_sampling_repeats_with_its_generator() -> None:
    net = network()
    _, cond, bbox = small_inputs()
    runs = [
        generate(net, all_masked(), cond, bbox, options=DecodingOptions(topk=5),
                 generator=torch.Generator().manual_seed(seed)).ids
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("bad", [{"timesteps": 0}, {"topk": 0}, {"temperature": -1.0}])
def test_bad_options(bad: dict) -> None:
    with pytest.raises(MoroError, match=next(iter(bad))):
        DecodingOptions(**bad)


def test_expected_embeddings() -> None:
    net, ids = network(), all_masked()
    ids[:, 0] = 3  # given
    _, *condition = small_inputs()
    chosen = generate(net, ids, *condition, options=DecodingOptions(timesteps=1))
    assert torch.equal(chosen.tokens, net.embed(chosen.ids))
    expected = generate(net, ids, *condition, options=DecodingOptions(timesteps=1, expectation=True))
    assert torch.equal(expected.ids, chosen.ids)
    mean = expected.output.logits.permute(0, 2, 3, 1).softmax(-1) @ net.codebook
    torch.testing.assert_close(expected.tokens[:, 1:], mean[:, 1:])
    assert torch.equal(expected.tokens[:, 0], net.embed(ids[:, 0]))
