"""LitServe around ONNX Runtime, for comparison: one worker, dynamic batching. usage: python litserve_peer.py MODEL.onnx PORT"""

import sys

import litserve
import numpy as np
import onnxruntime


class Mlp(litserve.LitAPI):
    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=64, batch_timeout=0.002)
        self.model = model

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        return np.asarray(request["x"][0], np.float32)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return self.session.run(None, {"x": x})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"output": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Mlp(sys.argv[1]), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="error", access_log=False)
