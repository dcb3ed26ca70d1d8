"""From masked tokens to tokens: a few passes, the surest predictions first (spec: models 6.1, 6.2)."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from models.mask_transformer.draws import uniform
from models.mask_transformer.masking import lowest
from models.mask_transformer.network import (
    ImageEncoding,
    MaskTransformer,
    TransformerOutput,
    without_features,
)
from moro.errors import MoroError

KEPT = 1e5  # score of a token that stays


@dataclass(frozen=True)
class DecodingOptions:
    """`model.test.generate` (spec: models 7.4).

    timesteps    passes when everything is masked
    cond_scale   1: as predicted; above 1: away from what is predicted without seeing the image (task video)
    temperature  of sampling, constant over the passes;  topk: codes to sample from, 1 is the best one
    gsample      sample by Gumbel noise instead of the softmax
    expectation  the result's embeddings are the mean over all codes by probability, not those of the chosen
                 codes: where several codes mean nearly the same, their mean is nearer the truth
    """

    timesteps: int = 5
    cond_scale: float = 1.0
    temperature: float = 1.0
    topk: int = 1
    gsample: bool = False
    expectation: bool = False

    def __post_init__(self) -> None:
        for name in ("timesteps", "topk"):
            if getattr(self, name) < 1:
                raise MoroError(f"model.test.generate.{name} must be at least 1, got {getattr(self, name)}.")
        if self.temperature < 0 or (self.temperature == 0 and self.topk > 1 and not self.gsample):
            raise MoroError(
                f"model.test.generate.temperature must be positive, got {self.temperature}; "
                "for the most likely codes use topk=1."
            )


@dataclass
class Generation:
    """Result of `generate`."""

    ids: Tensor  # (B, F, J) decoded
    masked_ids: Tensor  # (B, F, J) as given
    confidence: (
        Tensor  # (B, F, J) probability of each id in the pass that chose it; 1 for tokens that were given
    )
    tokens: Tensor  # (B, F, J, D) embeddings to decode: of the ids, or their expectation
    output: TransformerOutput  # of the last pass


def num_passes(masked: Tensor, timesteps: int) -> int:
    """Number of passes, in proportion to the masked share of the batch, at least 1 (spec: models 6.1)."""
    return max(1, round(timesteps * masked.double().mean().item()))


def masked_counts(initial: Tensor, step: int, passes: int) -> Tensor:
    """Positions to mask per sample before pass `step` of `passes`; initial (B,) int64 -> (B,) int64."""
    share = (1 + math.cos(math.pi * step / passes)) / 2
    return (share * initial.double()).round().long().clamp(min=1).minimum(initial)


@torch.no_grad()
def generate(
    network: MaskTransformer,
    ids: Tensor,
    cond: Tensor | None = None,
    bbox: Tensor | None = None,
    *,
    image: ImageEncoding | None = None,
    cano_input: Tensor | None = None,
    options: DecodingOptions | None = None,
    generator: Generator | None = None,
) -> Generation:
    """Decode masked tokens in confidence order (spec: models 6.1, 6.2).

    ids         (B, F, J) with `network.mask_id` where unknown
    cond, bbox  for the image encoder, or `image`, its result made before (image, video)
    cano_input  (B, F, 9) noisy trajectory, normalised (motion)
    generator   of the samples, used only if topk > 1

    The image is encoded once. From the second pass of task video on, the canonical input is that of the
    camera trajectory just decoded. Equal scores are masked in order of their index.
    """
    options = options or DecodingOptions()
    former = network.dst_former
    if options.cond_scale != 1 and former.task != "video":
        raise MoroError(
            f"cond_scale={options.cond_scale} needs model.task=video, not {former.task}; set it to 1."
        )
    if former.task != "motion" and image is None:
        image = former.encode_image(cond, bbox)
    masked_ids = ids
    masked = (ids == network.mask_id).flatten(1)  # (B, F, J) -> (B, F*J)
    initial = masked.sum(1)
    scores = torch.where(masked, 0.0, KEPT)
    confidence = torch.ones_like(scores)
    tokens = network.embed(ids)
    passes = num_passes(masked, options.timesteps)
    for step in range(passes):
        output = logits = probabilities = None  # of the pass before: room for this one
        hidden = lowest(scores, masked_counts(initial, step, passes))
        ids = ids.masked_fill(hidden.view_as(ids), network.mask_id)
        output = guided_pass(network, ids, image, cano_input, options.cond_scale)
        if former.task == "video":
            cano_input = former.canonical_input(output.rotation, output.translation)
        logits = output.logits.permute(0, 2, 3, 1).float()  # (B, K, F, J) -> (B, F, J, K)
        sampled = sample(logits, options, generator)
        probabilities = logits.softmax(-1)  # (B, F, J, K)
        probability = probabilities.gather(-1, sampled[..., None]).flatten(1)  # (B, F*J)
        chosen = probabilities @ network.codebook if options.expectation else network.embed(sampled)
        tokens = torch.where(hidden.view_as(ids)[..., None], chosen, tokens)
        ids = torch.where(hidden.view_as(ids), sampled, ids)
        confidence = torch.where(hidden, probability, confidence)
        scores = torch.where(hidden, probability, KEPT)
    return Generation(ids, masked_ids, confidence.view(ids.shape), tokens, output)


def guided_pass(
    network: MaskTransformer,
    ids: Tensor,
    image: ImageEncoding | None,
    cano_input: Tensor | None,
    cond_scale: float,
) -> TransformerOutput:
    """One pass; with cond_scale != 1 the logits are moved away from those without image features.

    The second decoding has the same tokens, canonical input and camera token; trajectories stay those of the
    first (the intent of spec: models 6.2, which the reference fails to run).
    """
    output = network(ids, image=image, cano_input=cano_input)
    if cond_scale == 1:
        return output
    blind = network.dst_former.decode(output.motion, without_features(image)).logits
    return output._replace(logits=blind + cond_scale * (output.logits - blind))


def sample(logits: Tensor, options: DecodingOptions, generator: Generator | None = None) -> Tensor:
    """Codes (*,) from logits (*, K): among the `topk` best, by temperature (spec: models 6.1)."""
    if options.topk == 1:
        return logits.argmax(-1)
    best, codes = logits.topk(min(options.topk, logits.shape[-1]), dim=-1)  # (*, topk)
    best = best / max(options.temperature, 1e-10)
    if options.gsample:
        noise = uniform(best.shape, generator, best.device).clamp(min=1e-20)
        choice = (best - (-noise.log()).log()).argmax(-1, keepdim=True)
    else:
        choice = multinomial(best.softmax(-1), generator)
    return codes.gather(-1, choice).squeeze(-1)


def multinomial(probabilities: Tensor, generator: Generator | None) -> Tensor:
    """One index (*, 1) per distribution (*, K), drawn with a generator that may live on another device."""
    threshold = uniform((*probabilities.shape[:-1], 1), generator, probabilities.device)
    below = probabilities.cumsum(-1) < threshold
    return below.sum(-1, keepdim=True).clamp(max=probabilities.shape[-1] - 1)
