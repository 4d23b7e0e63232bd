"""BentoML around ONNX Runtime, for comparison: one worker, adaptive batching. usage: python bentoml_peer.py MODEL.onnx PORT"""

import json
import os
import sys
from pathlib import Path

SERVICE = '''
import bentoml
import numpy as np
import onnxruntime

MODEL = {model}


@bentoml.service(workers=1, traffic={{"timeout": 60}}, logging={{"access": {{"enabled": False}}}})
class Mlp:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {{"x": np.asarray(x, np.float32)}})[0]
'''


def main(model: str, port: str) -> None:
    Path("service.py").write_text(SERVICE.format(model=json.dumps(model)))
    os.environ.update(BENTOML_DO_NOT_TRACK="True", BENTOML_HOME=str(Path("home").resolve()))
    command = Path(sys.executable).with_name("bentoml")
    os.execv(command, [str(command), "serve", "service:Mlp", "--host", "127.0.0.1", "--port", port])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
