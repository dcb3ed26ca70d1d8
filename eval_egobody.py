"""Metrics and videos of results on EgoBody; results made on PROX are measured by PROX's protocol.

python eval_egobody.py --saved_data_dir=exp/…/result_egobody/inference_5_1 --recording_name=all [--render]
"""

import logging

from moro.errors import ExitOnMoroError
from moro.evaluation.egobody import evaluate_egobody
from moro.evaluation.options import egobody_options
from moro.evaluation.prox import evaluate_prox
from moro.evaluation.videos import draw_scenes


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = egobody_options()
    with ExitOnMoroError():
        if options.benchmark == "prox":
            logging.info("these results were made on PROX: PROX's protocol")
            report, scenes = evaluate_prox(options)
        else:
            report, scenes = evaluate_egobody(options)
        print(report.table())
        print(report.write(options.saved_data_dir, options.name))
        draw_scenes(scenes, options)


if __name__ == "__main__":
    main()
