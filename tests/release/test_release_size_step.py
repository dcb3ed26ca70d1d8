"""The measurement at release size, here of a small network on the open body's tables."""

from pathlib import Path

import pytest

from scripts.release_size_step import main

SMALL = (
    "model.dst_former.dim_feat=32",
    "model.dst_former.num_heads=2",
    "model.dst_former.mdepth=1",
    "model.dst_former.ddepth=1",
    "model.backbone.out_C=16",
    "model.backbone.depth=1",
    "model.backbone.num_heads=2",
    "model.vqvae.num_tokens=54",
)


def test_a_step_and_a_decoding(repository: Path, capsys: pytest.CaptureFixture) -> None:
    bodies = repository / "body_models"
    tables = bodies / "open" / "connection_matrices"
    arguments = ["--tables", str(tables), "--bm_path", str(bodies), "--clips", "2", "--frames", "3"]
    main([*arguments, *SMALL])
    printed = capsys.readouterr().out
    assert "decode 1 x 3 frames, 5 passes" in printed and "train 2 x 3 frames, 1 step" in printed
    assert "loss " in printed and printed.count(" GB") == 3
    with pytest.raises(SystemExit):
        main([*arguments, "--limit", "0.01", *SMALL])
    assert "more than 0.01" in capsys.readouterr().err
