"""CPU time of BentoML's monitor for each row that it logs. usage: python bentoml_monitor.py ROWS FOLDER; prints microseconds a row."""

import os
import sys
import time

import numpy as np


def main(rows: int, folder: str) -> None:
    """Log as its documentation does: one `log` for each value, a batch for each array."""
    os.chdir(folder)
    os.environ.update(BENTOML_DO_NOT_TRACK="True", BENTOML_HOME=folder)
    import bentoml

    random = np.random.default_rng(1)
    x, y = random.standard_normal((rows, 64)), random.standard_normal((rows, 10))
    began = time.process_time()
    for i in range(rows):
        with bentoml.monitor("mlp") as monitor:
            monitor.log(x[i].tolist(), name="x", role="feature", data_type="numerical_sequence")
            monitor.log(y[i].tolist(), name="y", role="prediction", data_type="numerical_sequence")
    print((time.process_time() - began) * 1e6 / rows)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
