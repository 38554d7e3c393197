#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU: the tests, a full run over the GPU recipes, and a summary to publish.
#
#   benchmarks/gpu.sh [WORKSPACE]         # default: the bundled sample
#   PYTHON=/path/to/python OUT=gpu-results TIME_BUDGET=10m RECIPES="torch-cuda cuda-fp16" benchmarks/gpu.sh
#
# PYTHON needs what the runtimes of interest need (docs/gpu.md), and pytest and hypothesis for the tests; it may be
# one that has its torch already: nothing is installed, and no clock, power or other setting of the GPU is changed.
# Runtimes that are not there are skipped, and the summary says why.
#
# In OUT: doctor.txt, tests.txt, run.txt, summary.md, and for the bundled sample results/ (a workspace keeps its own).
# Exit code: 0; 1 where tests failed, or the run did not end with results; 2 where there is no GPU to work on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
recipes=${RECIPES:-torch-cuda cuda-fp16 tensorrt-fp16 tensorrt-int8 fp16}
budget=${TIME_BUDGET:-10m}
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"

stop() {
    echo "error: $1" >&2
    exit 2
}

command -v "$python" >/dev/null || stop "PYTHON: $python is not there"
case $python in
    */*) python="$(cd "$(dirname "$python")" && pwd)/$(basename "$python")" ;; # we leave this folder below
esac
reason=$("$python" -c 'from workbench.system.nvidia import missing_gpu; print(missing_gpu() or "")') ||
    stop "$python cannot import krishi-bench: see the lines above"
[ -z "$reason" ] || stop "$reason"
"$python" -c 'import numpy, PIL, psutil, pydantic, rich, yaml' ||
    stop "$python lacks what krishi-bench needs: $python -m pip install -e '$here'"

workspace=()
if [ $# -gt 0 ]; then
    [ -e "$1" ] || stop "there is no workspace at $1"
    workspace=(--workspace "$(cd "$1" && pwd)")
fi
mkdir -p "${OUT:-gpu-results}"
out=$(cd "${OUT:-gpu-results}" && pwd)
cd "$out" # the bundled sample keeps its results where it is run

echo "== doctor" >&2
"$python" -m workbench.cli doctor --quiet | tee "$out/doctor.txt"

failed=0
echo "== tests that need a GPU" >&2
if "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
    # The files that have such tests, and no others: those may need packages that a GPU machine lacks.
    mapfile -t files < <(cd "$here" && grep -rl --include='test_*.py' 'mark\.gpu' tests | sort)
    (cd "$here" && "$python" -m pytest -m gpu -p no:cacheprovider "${files[@]}") 2>&1 |
        tee "$out/tests.txt" || failed=1
else
    echo "not run: $python has no pytest or no hypothesis" | tee "$out/tests.txt"
    failed=1
fi

echo "== run" >&2
# Exit code 1 says that no variant met the budget: its results are there all the same.
code=0
# shellcheck disable=SC2086 # recipes are words
"$python" -m workbench.cli run ${workspace[@]+"${workspace[@]}"} $recipes --time-budget "$budget" |
    tee "$out/run.txt" || code=$?
[ "$code" -le 1 ] || failed=1

echo "== summary" >&2
"$python" "$here/benchmarks/gpu_summary.py" ${workspace[@]+"${workspace[@]}"} --output "$out/summary.md" || failed=1
[ ! -f "$out/summary.md" ] || cat "$out/summary.md"
exit "$failed"
