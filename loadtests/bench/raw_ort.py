"""ONNX Runtime alone: rows a second of one model at one batch size, one intra-op thread, for a while. Prints JSON.

usage: python -m loadtests.bench.raw_ort MODEL.onnx BATCH SECONDS DEVICE
"""

import json
import sys
import time

import numpy as np
import onnxruntime

WARM_UP_RUNS = 5


def main(path: str, batch: int, seconds: float, device: str) -> None:
    """Run batches through I/O binding on preallocated buffers for `seconds`; device is cpu or cuda:N."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    kind, _, index = device.partition(":")
    cuda = [("CUDAExecutionProvider", {"device_id": int(index or 0)})] if kind == "cuda" else ["CPUExecutionProvider"]
    if kind == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(path, options, providers=cuda)
    (x,) = session.get_inputs()
    (y,) = session.get_outputs()
    rows = np.random.default_rng(7).random((batch, *x.shape[1:]), dtype=np.float32)
    binding = session.io_binding()

    def run() -> None:
        # The rows come from the host and the answers go back to it, as when they are served.
        binding.bind_cpu_input(x.name, rows)
        binding.bind_output(y.name, "cpu")
        session.run_with_iobinding(binding)

    for _ in range(WARM_UP_RUNS):
        run()
    n_runs, cpu, start = 0, time.process_time(), time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        run()
        n_runs += 1
    print(json.dumps({"rows": n_runs * batch, "seconds": elapsed, "cpu_seconds": time.process_time() - cpu}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
