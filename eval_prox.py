"""Metrics and videos of results on PROX, which has no ground truth.

python eval_prox.py --saved_data_dir=exp/…/result_prox/inference_5_1 --recording_name=all [--render]
"""

import logging

from moro.errors import ExitOnMoroError
from moro.evaluation.options import prox_options
from moro.evaluation.prox import evaluate_prox
from moro.evaluation.videos import draw_scenes


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = prox_options()
    with ExitOnMoroError():
        report, scenes = evaluate_prox(options)
        print(report.table())
        print(report.write(options.saved_data_dir, options.name))
        draw_scenes(scenes, options)


if __name__ == "__main__":
    main()
