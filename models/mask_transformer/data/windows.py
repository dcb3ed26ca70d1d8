"""How sequences are cut into clips (spec: data 4.4, 4.5; models 6.3)."""

from moro.errors import MoroError


def windows_of(length: int, clip_len: int, overlap_len: int, partial: bool = True) -> list[tuple[int, int]]:
    """(start, stop) of consecutive clips of a sequence of `length` frames (spec: data 4.5).

    partial  test: the last clip is shorter, every frame is covered; otherwise an incomplete last clip is
             dropped (spec: data 4.4, train and val)
    Raises MoroError if the overlap is not smaller than the clip.
    """
    if not 0 <= overlap_len < clip_len:
        raise MoroError(f"dataset.overlap_len={overlap_len} must be 0 or more and below clip_len={clip_len}.")
    stride = clip_len - overlap_len
    if not partial:
        return [(start, start + clip_len) for start in range(0, length - clip_len + 1, stride)]
    last = max(1, length - overlap_len)  # a clip from here on would only repeat the overlap
    return [(start, min(start + clip_len, length)) for start in range(0, last, stride)]
