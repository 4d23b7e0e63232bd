#!/usr/bin/env bash
# The data sets that the figures of monitoring are about, out of a wheel that is not installed: build/datasets/nannyml.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
NANNYML=0.13.1
FOLDER=build/datasets/nannyml

[ -f $FOLDER/version ] && [ "$(cat $FOLDER/version)" = $NANNYML ] && exit 0
download=$(mktemp -d)
trap 'rm -rf "$download"' EXIT
echo "fetching the data sets of nannyml $NANNYML"
"$PYTHON" -m pip --disable-pip-version-check download -q --no-deps -d "$download" "nannyml==$NANNYML"
rm -rf $FOLDER
mkdir -p $FOLDER
"$PYTHON" - "$download" $FOLDER <<'UNPACK'
import pathlib
import sys
import zipfile

source, target = map(pathlib.Path, sys.argv[1:])
[wheel] = source.glob("*.whl")
wanted = ("synthetic_car_loan_reference.csv", "synthetic_car_loan_analysis.csv", "synthetic_car_loan_analysis_target.csv",
          "employment_MA_reference.pq", "employment_MA_analysis.pq", "employment_MA_analysis_target.pq")
with zipfile.ZipFile(wheel) as archive:
    for name in wanted:
        (target / name).write_bytes(archive.read(f"nannyml/datasets/data/{name}"))
UNPACK
echo $NANNYML >$FOLDER/version
