"""Command-line options of the three evaluation programs (spec: data 8.3 to 8.5)."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from moro.evaluation.prediction import METHODS
from moro.render.scene import COLOURS

BENCHMARKS = ("egobody", "rich", "prox")
RESULTS = "exp/mask_transformer/MIMO-vit-release/video_train/result_{}/inference_5_1"
ROOTS = {name: f"datasets/mask_transformer/{folder}" for name, folder in
         (("egobody", "EgoBody"), ("rich", "rich"), ("prox", "PROX"))}  # fmt: skip
SEQUENCES = {
    "egobody": "recording_20220318_S33_S34_01",
    "rich": "Gym_011_pushup1",
    "prox": "N0Sofa_00145_01",
}
RICH_METHODS = ("MoRo", "TokenHMR", "WHAM", "GVHMR", "PromptHMR")
MESH_COLOURS = tuple(name for name in COLOURS if name != "white")
PREDICTION, TRUTH, BOTH = 1, 2, 3  # --vis_3d_mode


@dataclass(frozen=True)
class Options:
    """What was asked for.

    benchmark      egobody, rich or prox: the protocol
    name           one recording or sequence, or "all"
    colour         of the predicted mesh
    render, render_gt, visualize_3d   videos to make; with_world: the view of the world beside the camera's
    crop_bbox      RICH: boxes are drawn as the crop protocol cuts them
    scene_floor    PROX: the floor of the scene, not the lowest predicted vertex
    """

    benchmark: str
    saved_data_dir: Path
    dataset_root: Path
    bm_path: Path
    name: str
    method: str = "MoRo"
    colour: str = "skin"
    render: bool = False
    render_gt: bool = False
    with_world: bool = False
    boxes: bool = True
    visualize_3d: bool = False
    vis_3d_fps: float = 30.0
    vis_3d_mode: int = BOTH
    crop_bbox: bool = False
    scene_floor: bool = False

    @property
    def draws(self) -> bool:
        """Whether there are videos to make."""
        return self.render or self.render_gt or self.visualize_3d


def egobody_options(arguments: Sequence[str] | None = None) -> Options:
    """Options of eval_egobody.py; results made on PROX are evaluated by PROX's protocol (defect D3)."""
    parser = _parser("egobody", "--recording_name", tuple(METHODS))
    parser.add_argument("--render_global", action="store_true", help="the world beside the camera's view")
    return _options(parser, arguments, benchmark_of)


def rich_options(arguments: Sequence[str] | None = None) -> Options:
    """Options of eval_rich.py."""
    parser = _parser("rich", "--seq_name", RICH_METHODS)
    parser.add_argument("--crop_bbox", action="store_true", help="draw the boxes of the crop protocol")
    return _options(parser, arguments, lambda _: "rich")


def prox_options(arguments: Sequence[str] | None = None) -> Options:
    """Options of eval_prox.py."""
    parser = _parser("prox", "--recording_name", ("MoRo",))
    parser.add_argument("--render_global", action="store_true", help="the world beside the camera's view")
    return _options(parser, arguments, lambda _: "prox")


def benchmark_of(saved_data_dir: Path) -> str:
    """prox for results made on PROX, by the folder's name or the config.yaml in it; else egobody."""
    if "result_prox" in saved_data_dir.parts:
        return "prox"
    config = saved_data_dir / "config.yaml"
    if not config.is_file():
        return "egobody"
    try:
        content = yaml.safe_load(config.read_text())
        return "prox" if content["dataset"]["name"] == "prox" else "egobody"
    except (OSError, yaml.YAMLError, KeyError, TypeError):  # not ours; the name of the folder decides
        return "egobody"


def _parser(benchmark: str, sequence_flag: str, methods: tuple[str, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"Metrics (and videos) of results on {benchmark}: prints a table and writes "
        "metrics_<name>.pkl, .csv and .json into the folder of the results."
    )
    add = parser.add_argument
    add("--saved_data_dir", type=Path, default=Path(RESULTS.format(benchmark)), help="default: %(default)s")
    add("--dataset_root", type=Path, help=f"default: {ROOTS[benchmark]}")
    add("--bm_path", type=Path, default=Path("body_models"), help="default: %(default)s")
    add(sequence_flag, dest="name", help=f"one sequence, or all; default: {SEQUENCES[benchmark]}")
    add("--method", choices=methods, default="MoRo", help="default: %(default)s")
    add("--mesh_color", choices=MESH_COLOURS, help="default: the method's colour")
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument("--render", action="store_true", help="videos of the prediction over the images")
    pictures.add_argument("--visualize_3d", action="store_true", help="videos of the world alone")
    add("--vis_3d_fps", type=float, default=30.0, help="default: %(default)s")
    if benchmark != "prox":
        add("--render_gt", action="store_true", help="videos of the ground truth over the images")
        add("--vis_3d_mode", type=int, choices=(PREDICTION, TRUTH, BOTH), default=BOTH,
            help="1 prediction, 2 ground truth, 3 both (default)")  # fmt: skip
    add("--no_bbox", action="store_true", help="leave the boxes out of the videos")
    if benchmark != "rich":
        add("--scene_floor", action="store_true",
            help="PROX: measure against the scene's floor, not the lowest predicted vertex")  # fmt: skip
    return parser


def _options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, benchmark_in: Callable[[Path], str]
) -> Options:
    given = parser.parse_args(arguments)
    benchmark = benchmark_in(given.saved_data_dir)
    if benchmark == "prox":
        if given.method != "MoRo":
            parser.error("PROX is evaluated with --method MoRo only")
        if getattr(given, "render_gt", False):
            parser.error("PROX has no ground truth to render; leave --render_gt out")
    with_world = getattr(given, "render_global", False)
    render_gt = getattr(given, "render_gt", False)
    return Options(
        benchmark=benchmark,
        saved_data_dir=given.saved_data_dir,
        dataset_root=given.dataset_root or Path(ROOTS[benchmark]),
        bm_path=given.bm_path,
        name=given.name or SEQUENCES[benchmark],
        method=given.method,
        colour=given.mesh_color or METHODS[given.method].colour,
        render=given.render or (with_world and not render_gt and not given.visualize_3d),
        render_gt=render_gt,
        with_world=with_world,
        boxes=not given.no_bbox,
        visualize_3d=given.visualize_3d,
        vis_3d_fps=given.vis_3d_fps,
        vis_3d_mode=PREDICTION if benchmark == "prox" else given.vis_3d_mode,
        crop_bbox=getattr(given, "crop_bbox", False) or "crop" in str(given.saved_data_dir),
        scene_floor=getattr(given, "scene_floor", False),
    )
