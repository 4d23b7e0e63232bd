"""Locust scenarios: JSON and binary tensors over HTTP, and gRPC, on one FP32 model; limits decide the exit code.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --grpc-target 127.0.0.1:8001 --model digits

`make load` starts a server, runs this without a browser and leaves reports/load.html. Locust's users are closed: each waits for its
answer before it asks again, so its latencies say how the server feels at this load, not what it can bear (loadtests/bench does that).
"""

import json
import logging
import time
from functools import cached_property
from typing import Any

import grpc
import grpc.experimental.gevent
import numpy as np
from locust import FastHttpUser, User, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtests import payloads

grpc.experimental.gevent.init_gevent()
log = logging.getLogger(__name__)

SERVICE = "/inference.GRPCInferenceService"
BATCH = 8


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Add what these scenarios need to know to locust's own options."""
    parser.add_argument("--grpc-target", default="127.0.0.1:8001", help="host:port of the gRPC users")
    parser.add_argument("--model", default="digits", help="a model with one FP32 input")
    parser.add_argument("--max-failure-ratio", type=float, default=0.0, help="more failures than this: exit code 1")
    parser.add_argument("--max-p95-ms", type=float, default=100.0, help="a slower 95th percentile: exit code 1")


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Set the exit code by the limits. No request at all is a failure."""
    total = environment.stats.total
    options = environment.parsed_options
    assert options is not None
    p95 = total.get_response_time_percentile(0.95)
    faults = []
    if not total.num_requests:
        faults.append("no request was made")
    if total.fail_ratio > options.max_failure_ratio:
        faults.append(f"{total.fail_ratio:.2%} of the requests failed, limit {options.max_failure_ratio:.2%}")
    if p95 > options.max_p95_ms:
        faults.append(f"p95 is {p95} ms, limit {options.max_p95_ms} ms")
    for fault in faults:
        log.error("load test failed: %s", fault)
    environment.process_exit_code = 1 if faults else 0


class ModelFacts:
    """What the model's metadata say: its name, and the name and row shape of its input."""

    def __init__(self, model: str, metadata: dict[str, Any]) -> None:
        (tensor,) = metadata["inputs"]
        if tensor["datatype"] != "FP32":
            raise ValueError(f"{model} takes {tensor['datatype']}; these scenarios send FP32")
        self.model, self.input = model, str(tensor["name"])
        self.row_shape = tuple(max(int(n), 1) for n in tensor["shape"][1:])
        self.random = np.random.default_rng(11)

    def rows(self, n: int) -> payloads.FloatRows:
        """Return n rows of noise."""
        return self.random.random((n, *self.row_shape), dtype=np.float32)


class HttpUser(FastHttpUser):
    """A client of the REST endpoints with a keep-alive connection."""

    wait_time = between(0.001, 0.01)
    weight = 2

    def on_start(self) -> None:
        model = self.environment.parsed_options.model
        with self.client.get(f"/v2/models/{model}", name="metadata", catch_response=True) as answer:
            self.facts = ModelFacts(model, answer.json())
        self.path = f"/v2/models/{model}/infer"

    @task(6)
    def infer_json(self) -> None:
        body: Any = payloads.json_body(self.facts.input, self.facts.rows(1))
        headers = {"Content-Type": "application/json"}
        with self.client.post(self.path, data=body, headers=headers, name="infer, JSON", catch_response=True) as answer:
            if answer.status_code != 200 or not answer.json()["outputs"][0]["data"]:
                answer.failure(f"status {answer.status_code}: {answer.text[:200]}")

    @task(3)
    def infer_binary(self) -> None:
        body: Any       # locust's types know text only, its client sends bytes as they are
        body, header_bytes = payloads.binary_body(self.facts.input, self.facts.rows(BATCH))
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(header_bytes)}
        with self.client.post(self.path, data=body, headers=headers, name=f"infer, binary, {BATCH} rows", catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
                return
            head = int(answer.headers["Inference-Header-Content-Length"])
            outputs = json.loads(answer.content[:head])["outputs"]
            if sum(output["parameters"]["binary_data_size"] for output in outputs) != len(answer.content) - head:
                answer.failure("the binary part is not as long as its header says")

    @task(1)
    def ready(self) -> None:
        self.client.get("/v2/health/ready", name="ready")


class GrpcUser(User):
    """A client of ModelInfer with a channel of its own, sending bytes: message classes would be measured too."""

    wait_time = between(0.001, 0.01)
    weight = 2

    @cached_property
    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.environment.parsed_options.grpc_target, options=[("grpc.use_local_subchannel_pool", 1)])

    def on_start(self) -> None:
        model = self.environment.parsed_options.model
        metadata = self.channel.unary_unary(f"{SERVICE}/ModelMetadata", None, None)(payloads.field(1, model.encode()))
        self.facts = ModelFacts(model, payloads.read_model_metadata(metadata))
        self.infer = self.channel.unary_unary(f"{SERVICE}/ModelInfer", None, None)

    def call(self, name: str, rows: payloads.FloatRows) -> None:
        """Make one call and tell locust how it went."""
        message = payloads.grpc_message(self.facts.model, self.facts.input, rows)
        failure: Exception | None = None
        start, length = time.perf_counter(), 0
        try:
            answer = self.infer(message, timeout=10)
            length = len(answer)
            if not payloads.raw_outputs(answer):
                failure = ValueError("no output")
        except grpc.RpcError as error:
            failure = error
        elapsed_ms = (time.perf_counter() - start) * 1e3
        self.environment.events.request.fire(
            request_type="gRPC", name=name, response_time=elapsed_ms, response_length=length, exception=failure, context={},
        )

    @task(6)
    def infer_one(self) -> None:
        self.call("ModelInfer", self.facts.rows(1))

    @task(2)
    def infer_batch(self) -> None:
        self.call(f"ModelInfer, {BATCH} rows", self.facts.rows(BATCH))
