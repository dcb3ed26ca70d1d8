"""Metrics and videos of results on RICH.

python eval_rich.py --saved_data_dir=exp/…/result_rich/inference_5_1 --seq_name=all [--render]
"""

import logging

from moro.errors import ExitOnMoroError
from moro.evaluation.options import rich_options
from moro.evaluation.rich import evaluate_rich
from moro.evaluation.videos import draw_scenes


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = rich_options()
    with ExitOnMoroError():
        report, scenes = evaluate_rich(options)
        print(report.table())
        print(report.write(options.saved_data_dir, options.name))
        draw_scenes(scenes, options)


if __name__ == "__main__":
    main()
