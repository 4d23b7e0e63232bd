"""A monitoring document of a model that drifts half-way, as GET .../monitoring has it, for tests of what is made of it."""

import math
import random
from typing import Any

from serve.store.audit import rfc3339

WINDOW_NS = 300 * 10**9
START_NS = 1_769_860_800 * 10**9        # 2026-01-31 12:00 UTC
SETTINGS = {"window_s": 300.0, "min_rows": 500, "min_psi": 0.1, "fdr": 0.01, "alert_m": 2, "alert_n": 3, "metric": "accuracy"}


def edges(index: int, n: int = 1) -> dict[str, Any]:
    start, end = START_NS + index * WINDOW_NS, START_NS + (index + n) * WINDOW_NS
    return {"from_ns": start, "to_ns": end, "from": rfc3339(start), "to": rfc3339(end)}


def drift(psi: float, drifted: bool) -> dict[str, Any]:
    return {"psi": psi, "critical": 0.004, "p_value": 1e-9 if drifted else 0.4, "js": psi / 9, "ks": psi / 3, "wasserstein": psi * 2,
            "n": 3000, "drifted": drifted}


def window(index: int, version: str, variant: str, n_features: int, seed: random.Random, drift_from: int) -> dict[str, Any]:
    size = max(0.0, min(1.0, (index - drift_from + 1) / 6)) if version == "1" else 0.0
    features = {}
    for i in range(n_features):
        psi = abs(seed.gauss(0.004, 0.004)) + size * max(0.0, math.sin(i * 0.7)) ** 3 * 1.4
        features[f"input[{i}]"] = drift(psi, psi >= 0.1)
    estimated = 0.955 - 0.11 * size + seed.gauss(0, 0.004)
    return {
        "version": version, "variant": variant, **edges(index), "rows": round((3000 if version == "1" else 400) * seed.uniform(0.8, 1.1)),
        "concluded": True, "reason": "", "n_features": n_features, "n_drifted": sum(one["drifted"] for one in features.values()),
        "features": features, "predictions": {"label": drift(0.02, False)}, "against_stable": None,
        "embeddings": {"pixels": {"effect": 0.3, "mmd2": 0.02, "critical": 0.001, "n": 300, "p_adjusted": 1e-9, "drifted": True}},
        "estimated": {"accuracy": estimated, "f1": estimated - 0.01},
        "bands": {"accuracy": [0.93, 0.98], "f1": [0.92, 0.97]},
    }


def distributions(seed: random.Random) -> list[dict[str, Any]]:
    found = []
    for i in range(9):
        n = 16
        before = [1 / n] * n
        now = [max(0.0, math.exp(-((k - n * 0.7 + i) / 4) ** 2) + seed.gauss(0, 0.03)) for k in range(n)]
        total = sum(now)
        labels = [f"{k / n:.3g} to {(k + 1) / n:.3g}" for k in range(n)]
        found.append({"feature": f"input[{i * 3}]", "kind": "input", "labels": labels, "baseline": before,
                      "current": [one / total for one in now], "psi": 1.2 / (i + 1), "drifted": i < 7, **edges(40)})
    classes = [0.1, 0.098, 0.11, 0.1, 0.095, 0.1, 0.1, 0.097, 0.1, 0.1]
    found.append({"feature": "label", "kind": "prediction", "labels": [str(k) for k in range(10)], "baseline": classes,
                  "current": [0.05, 0.2, 0.05, 0.1, 0.05, 0.15, 0.1, 0.1, 0.15, 0.05], "psi": 0.21, "drifted": True, **edges(40)})
    return found


def alert(kind: str, since: int, raised: int, cleared: int | None, **more: Any) -> dict[str, Any]:
    at = {name: START_NS + index * WINDOW_NS for name, index in (("since", since), ("raised", raised))}
    cleared_ns = 0 if cleared is None else START_NS + cleared * WINDOW_NS
    return {
        "id": f"digits-a{since}", "model": "digits", "version": "1", "variant": "stable", "kind": kind,
        "state": "raised" if cleared is None else "cleared", "since": rfc3339(at["since"]), "since_ns": at["since"],
        "raised": rfc3339(at["raised"]), "raised_ns": at["raised"], "cleared": rfc3339(cleared_ns) if cleared_ns else None,
        "cleared_ns": cleared_ns, "cleared_because": "", "acknowledged_by": "", "evidence": {}, **more}


def document(n_windows: int = 48, n_features: int = 64, drift_from: int = 30) -> dict[str, Any]:
    seed = random.Random(7)
    ones = [window(index, "1", "stable", n_features, seed, drift_from) for index in range(n_windows) if index != 12]
    if n_windows > 8:
        ones[8] |= {"concluded": False, "features": {}, "estimated": {}, "bands": {}, "rows": 130, "n_features": 0, "n_drifted": 0,
                    "reason": "130 rows; 500 are needed"}
    twos = [window(index, "2", "canary", n_features, seed, drift_from) for index in range(n_windows // 2, n_windows)]
    realised = [{"version": "1", "variant": "stable", **edges(one), "labelled": 700 + one,
                 "metrics": {"accuracy": found["estimated"]["accuracy"] + seed.gauss(0, 0.008)}, "bands": {"accuracy": [0.93, 0.98]}}
                for one, found in enumerate(ones[:-6]) if found["estimated"]]
    twos[-1]["against_stable"] = {
        "rows": 400, "stable_rows": 3000, "concluded": True, "reason": "", "n_features": 65, "n_drifted": 1,
        "features": {"label": drift(0.21, True), "input[3]": drift(0.004, False)}}
    baseline = {"id": "1-3f2a9c", "source": "training", "rows": 1437, "created": rfc3339(START_NS), "digest": "sha256:" + "3f" * 32}
    worst = [{"feature": "input[23]", "psi": 1.39}, {"feature": "input[2]", "psi": 1.2}, {"feature": "input[11]", "psi": 0.9}]
    return {
        "model": "digits", "settings": SETTINGS,
        "series": [
            {"version": "1", "variant": "stable", "baseline": baseline, "collecting": None, "latest": ones[-1],
             "distributions": distributions(seed)},
            {"version": "2", "variant": "canary", "baseline": {**baseline, "id": "2-aa", "source": "first_rows", "rows": 1000},
             "collecting": None, "latest": twos[-1], "distributions": []}],
        "windows": sorted([*ones, *twos], key=lambda one: (one["from_ns"], one["version"])), "realised": realised,
        "alerts": [
            alert("data_invalid", 3, 5, 9, evidence={"said": "2.1 % of input[4] missing"}),
            alert("drift", 31, 32, None, evidence={
                "features": worst, "n_features": 21, "said": "input[23] (PSI 1.39) and 20 more"}, acknowledged_by="ada"),
            alert("estimated_performance", 33, 34, None, evidence={
                "metric": "accuracy", "value": 0.91, "bound": 0.93, "said": "accuracy 0.91, at least 0.93 was expected"}),
            alert("realised_performance", 34, 38, None, evidence={
                "metric": "accuracy", "value": 0.88, "bound": 0.93, "said": "accuracy 0.88, at least 0.93 was expected"})],
        "violations": [{"version": "1", "feature": "input[4]", "kind": "missing", "count": 812},
                       {"version": "1", "feature": "input[23]", "kind": "out_of_range", "count": 4120},
                       {"version": "2", "feature": "label", "kind": "unseen_category", "count": 3}],
    }
