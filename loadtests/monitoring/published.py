"""Quality without labels, on data sets whose truth is known: NannyML's car loans, beside the published figures, and a US census."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from loadtests.bench.report import ROOT
from loadtests.judge.tables import Bound, Scale, Table
from loadtests.monitoring.tables_of import baseline_of, classified, windows
from serve.monitoring.drift import FeatureDrift, judge_window
from serve.monitoring.estimates import estimates, is_worse
from serve.monitoring.performance import class_metrics, confusion_of, roc_auc
from serve.monitors import MonitoringSpec

FOLDER = ROOT / "build" / "datasets" / "nannyml"
CHUNK = 5000
# ROC AUC by chunk, from NannyML's documentation.
ESTIMATED = (0.970744, 0.971011, 0.971407, 0.971091, 0.971123, 0.961090, 0.961825, 0.961073, 0.962533, 0.961316)
REALISED = (0.970962, 0.970248, 0.976282, 0.967721, 0.969886, 0.960050, 0.958530, 0.959041, 0.963094, 0.957556)
BAND = (0.963317, 0.978660)
ALERTS = (5, 6, 7, 8, 9)
_NUMBERS = ("car_value", "debt_to_income_ratio", "loan_length", "driver_tenure")
_WORDS = ("salary_range", "repaid_loan_on_prev_car", "size_of_downpayment")


def needed(folder: Path) -> Path:
    """Raises FileNotFoundError that says how to get it."""
    if not (folder / "version").exists():
        raise FileNotFoundError(f"{folder} has no data sets; run tools/datasets.sh")
    return folder


def _loans(name: str) -> tuple[pa.Table, pa.Table]:
    given = pyarrow.csv.read_csv(needed(FOLDER) / f"synthetic_car_loan_{name}.csv")
    words = {word: pa.array([str(value) for value in given[word].to_pylist()]) for word in _WORDS}
    inputs = {**{number: given[number].cast(pa.float32()) for number in _NUMBERS}, **words}
    return classified(inputs, given["y_pred"], given["y_pred_proba"].to_numpy()), given


def car_loans(scale: Scale) -> list[Table]:
    """Estimated and realised ROC AUC of ten chunks, beside what NannyML publishes."""
    reference, known = _loans("reference")
    rows, given = _loans("analysis")
    truth = pyarrow.csv.read_csv(needed(FOLDER) / "synthetic_car_loan_analysis_target.csv")["repaid"].to_numpy()
    baseline = baseline_of(reference, MonitoringSpec(), known["repaid"].to_pylist(), CHUNK)
    band = baseline.performance["auc"].band(CHUNK)
    score = given["y_pred_proba"].to_numpy()
    ours, realised, drifted = [], [], []
    for place, cells in enumerate(windows(baseline, rows, CHUNK)):
        chunk = slice(place * CHUNK, (place + 1) * CHUNK)
        found = estimates(baseline, cells)
        assert found is not None
        ours.append(found.metrics["auc"])
        realised.append(float(roc_auc(truth[chunk] == 1, score[chunk]) or 0))
        drifted.append(judge_window(baseline, cells, MonitoringSpec()).drifted)
    scale.say(f"alerts {[i for i, value in enumerate(ours) if is_worse('auc', value, band)]}")
    return [_loan_table(ours, realised, drifted, band)]


def _loan_table(
    ours: Sequence[float], realised: Sequence[float], drifted: Sequence[Sequence[FeatureDrift]], band: tuple[float, float],
) -> Table:
    alerts = {i for i, value in enumerate(ours) if is_worse("auc", value, band)}
    lines = [[str(i), f"{ours[i]:.6f}", f"{ESTIMATED[i]:.6f}", f"{realised[i]:.6f}", f"{REALISED[i]:.6f}", "alert" if i in alerts else "",
              ", ".join(f"{one.name} {one.psi:.2f}" for one in drifted[i])] for i in range(len(ours))]
    bounds = (
        Bound("realised: largest difference to the published figure", _apart([round(one, 6) for one in realised], REALISED), most=1e-9),
        Bound("estimated: largest difference to the published figure", _apart(ours, ESTIMATED), most=0.002),
        Bound("alert band: largest difference to the published one", _apart([round(one, 6) for one in band], BAND), most=1e-9),
        Bound("chunks on whose alert we and NannyML differ", len(alerts ^ set(ALERTS)), most=0),
        Bound("chunks before the change with a drifted feature", sum(bool(one) for one in drifted[:5]), most=0),
        Bound("chunks after the change with a drifted feature", sum(bool(one) for one in drifted[5:]), least=5),
    )
    note = (
        "NannyML's synthetic car loans: 50,000 rows of reference, ten chunks of 5,000; the inputs change at chunk 5. Estimated from binned "
        f"scores with the baseline's isotonic calibration. Alert band {band[0]:.6f} to {band[1]:.6f}, published {BAND[0]:.6f} to "
        f"{BAND[1]:.6f}.")
    headers = ["chunk", "estimated", "published", "realised", "published", "", "drifted features (PSI)"]
    return Table("Car loans: ROC AUC without labels", headers, lines, [note], bounds,
                 {"estimated": ours, "realised": realised, "published": ESTIMATED, "band": band})


def _apart(ours: Sequence[float], published: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, published, strict=True))


def census(scale: Scale) -> list[Table]:
    """Estimated and realised accuracy and ROC AUC on employment in Massachusetts, 2016 to 2018, by a model of 2014 and 2015."""
    folder = needed(FOLDER)
    tables = [pyarrow.parquet.read_table(folder / f"employment_MA_{name}.pq") for name in ("reference", "analysis", "analysis_target")]
    names = [name for name in tables[0].column_names if name not in {"id", "employed", "year", "prediction", "predicted_probability"}]
    reference, rows = (
        classified({name: _plain(one[name]) for name in names}, one["prediction"], one["predicted_probability"].to_numpy())
        for one in tables[:2])
    truth = tables[2]["employed"].to_numpy()
    baseline = baseline_of(reference, MonitoringSpec(), tables[0]["employed"].to_pylist(), CHUNK)
    predicted, score = tables[1]["prediction"].to_numpy(), tables[1]["predicted_probability"].to_numpy()
    found: dict[str, list[tuple[float, float]]] = {"accuracy": [], "f1": [], "auc": []}
    for place, cells in enumerate(windows(baseline, rows, CHUNK)):
        chunk = slice(place * CHUNK, (place + 1) * CHUNK)
        made = estimates(baseline, cells)
        assert made is not None
        true = {**class_metrics(confusion_of(truth[chunk], predicted[chunk], 2), 1),
                "auc": float(roc_auc(truth[chunk] == 1, score[chunk]) or 0)}
        for metric, pairs in found.items():
            pairs.append((made.metrics[metric], true[metric]))
    scale.say(f"{len(found['auc'])} chunks")
    return [_census_table(baseline.performance["auc"].chunk_rows, {name: np.array(pairs) for name, pairs in found.items()})]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column.cast(pa.float32())


def _census_table(chunk_rows: int, found: dict[str, npt.NDArray[np.float64]]) -> Table:
    lines = []
    for name, pairs in found.items():
        error = np.abs(pairs[:, 0] - pairs[:, 1])
        figures = (pairs[:, 1].mean(), pairs[:, 0].mean(), error.mean(), error.max())
        lines.append([name, str(len(pairs)), *(f"{value:.4f}" for value in figures)])
    note = (
        "Employment in Massachusetts (American Community Survey, in NannyML's wheel): 68,785 rows of reference, 208,892 of later years in "
        f"chunks of {chunk_rows:,}. What an estimate is off by holds the chance of a chunk's labels too.")
    headers = ["metric", "chunks", "realised, mean", "estimated, mean", "error, mean", "error, largest"]
    return Table("A census: estimated and realised performance", headers, lines, [note])


__all__ = ["car_loans", "census", "needed"]
