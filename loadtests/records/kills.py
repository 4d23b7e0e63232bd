"""Case kills: kill -9 of the worker and of the whole service at random moments under load; every row must be accounted for."""

import http.client
import json
import random
import threading
import time
from types import TracebackType
from typing import Self

from loadtests.judge.tables import Bound, Table
from loadtests.records.books import query, settled
from loadtests.records.service import MODEL, Recorded, recorded
from loadtests.rollout import models
from loadtests.rollout.bench import Bench
from loadtests.rollout.load import Wrk

SEED = 20261122
LONGEST_S = 2.0


class Teller:
    """Tells labels one by one, and notes what was answered 202. sure: ids; unsure: those whose connection broke before an answer."""

    def __init__(self, service: Recorded) -> None:
        self._port = service.http_port
        self.sure: list[str] = []
        self.unsure: list[str] = []
        self._n = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                while not self._stop.is_set():
                    self._tell(connection)
            except (OSError, http.client.HTTPException):
                self.unsure.append(f"label-{self._n}")
                time.sleep(0.01)
            finally:
                connection.close()

    def _tell(self, connection: http.client.HTTPConnection) -> None:
        self._n += 1
        body = json.dumps({"request_id": f"label-{self._n}", "row": 0, "label": self._n})
        connection.request("POST", f"/v2/models/{MODEL}/feedback", body)
        answer = connection.getresponse()
        answer.read()
        (self.sure if answer.status == 202 else self.unsure).append(f"label-{self._n}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(30)


def kills_case(bench: Bench) -> list[Table]:
    """kill -9 at random moments: rows and labels afterwards."""
    plan = ["worker"] * bench.sized(30, 3) + ["service"] * bench.sized(10, 1)
    draw = random.Random(SEED)
    with recorded(bench, "kills", "--record-seal", "1") as service:
        with Teller(service) as teller:
            for turn, way in enumerate(plan):
                _kill(service, draw, way)
                bench.say(f"{turn + 1}/{len(plan)} {way}")
        service.restart()
        bench.say("verifying")
        books = settled(service)
        told = query(service, "SELECT request_id, count(*) AS n FROM labels GROUP BY request_id")
    found = {row["request_id"]: row["n"] for row in told}
    missing = [one for one in teller.sure if one not in found]
    twice = [one for one, n in found.items() if n > 1]
    strangers = set(found) - set(teller.sure) - set(teller.unsure)
    worst = max(books.lost_each, default=0)
    lines = [["numbered", f"{books.assigned:,}"], ["stored", f"{books.found:,}"], ["dropped, counted", f"{books.dropped:,}"],
             ["lost in rings and blocks, counted", f"{books.lost:,} (at most {worst:,} in one kill)"],
             ["torn off a journal's end, counted", f"{books.torn:,}"],
             ["labels answered 202, and stored", f"{len(teller.sure):,}, {len(teller.sure) - len(missing):,}"]]
    return [Table(f"kill -9 at {len(plan)} random moments", ["rows", ""], lines, [
        f"The worker {plan.count('worker')} times, the service {plan.count('service')} times, uniform in {LONGEST_S:g} s under wrk, seed",
        f"{SEED}; journals are sealed each second, by a keeper that is killed with its worker. Then `headrace records verify` reads",
        "every byte."], [
        Bound("epochs accounted for", books.epochs, least=len(plan)),
        Bound("rows numbered less stored, dropped, lost, torn and damaged",
              books.assigned - books.found - books.dropped - books.lost - books.torn - books.bad, most=0),
        Bound("rows stored twice", books.twice, most=0),
        Bound("files that do not check", books.damaged, most=0),
        Bound("rows lost in one kill", worst, most=100_000),
        Bound("labels answered 202 and not stored", len(missing), most=0),
        Bound("labels stored twice", len(twice), most=0),
        Bound("labels stored that nobody sent", len(strangers), most=0),
    ], {"lost_each": list(books.lost_each)})]


def _kill(service: Recorded, draw: random.Random, way: str) -> None:
    with Wrk(service, [MODEL], models.rows(16), connections=8):
        time.sleep(draw.uniform(0.05, LONGEST_S))
        if way == "worker":
            service.kill_worker()
        else:
            service.kill()


__all__ = ["kills_case"]
