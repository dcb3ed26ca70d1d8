"""A backbone's tokens made once per frame where clips overlap (windows of test and demo: models 6.3)."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


class TokensOnce:
    """Keeps the tokens of the last clip; a clip that begins with its last frames gets those from here.

    Backbones look at one frame at a time, so a frame's tokens are the same in every clip.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """To be called when the weights may have changed."""
        self.keys: list[Hashable] = []
        self.tokens: Tensor | None = None

    def of(self, keys: Sequence[Hashable], make: Callable[[slice], Tensor]) -> Tensor:
        """Tokens (1, F, N, C) of a clip.

        keys  F values that tell its frames apart from all others
        make  gives the tokens (1, F', N, C) of a slice of the clip
        """
        keys = list(keys)
        longest = min(len(keys), len(self.keys))
        shared = next((n for n in range(longest, 0, -1) if self.keys[-n:] == keys[:n]), 0)
        parts = [self.tokens[:, -shared:]] if shared else []
        if shared < len(keys):
            parts.append(make(slice(shared, len(keys))))
        self.keys, self.tokens = keys, torch.cat(parts, dim=1)
        return self.tokens
