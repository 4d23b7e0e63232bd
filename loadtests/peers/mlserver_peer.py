"""MLServer around ONNX Runtime, for comparison: one process, no batching (with it, it answers a fifth fewer).

usage: python mlserver_peer.py MODEL.onnx PORT

MLServer has no ONNX runtime of its own; the one below does what a user would write.
"""

import json
import os
import socket
import sys
from pathlib import Path

RUNTIME = '''
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        (y,) = self.session.run(None, {payload.inputs[0].name: x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
'''


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(model: str, port: str) -> None:
    Path("onnx_model.py").write_text(RUNTIME)
    Path("settings.json").write_text(json.dumps({
        "host": "127.0.0.1", "http_port": int(port), "grpc_port": free_port(), "metrics_port": free_port(), "debug": False,
        # No second process: there is one core, and handing requests over costs more than it brings.
        "parallel_workers": 0,
    }))
    Path("model-settings.json").write_text(json.dumps({
        "name": Path(model).stem, "implementation": "onnx_model.OnnxModel", "max_batch_size": 0, "max_batch_time": 0,
        "parameters": {"uri": model},
    }))
    Path("logging.ini").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=none\n[formatters]\nkeys=\n[logger_root]\nlevel=ERROR\nhandlers=none\n"
        "[handler_none]\nclass=NullHandler\nargs=()\n"
    )
    command = Path(sys.executable).with_name("mlserver")
    os.execv(command, [str(command), "start", "."])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
