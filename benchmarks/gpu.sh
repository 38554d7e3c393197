#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in under 8 minutes: doctor, tests/gpu, the GPU recipes on the bundled sample.
#
#   benchmarks/gpu.sh                     # with the packages that are here
#   benchmarks/gpu.sh WHEELS              # and with those carried in (python benchmarks/gpu_wheels.py pack WHEELS)
#   PYTHON=python3 OUT=gpu-results RECIPES="torch-cuda cuda-fp16" benchmarks/gpu.sh
#
# PYTHON needs a torch with CUDA, and no network. Carried wheels go into OUT/site; PYTHON's own environment, and the
# clocks, power and modes of the GPU, stay as they are. What is absent is skipped, by name and with its reason.
# OUT/summary.md compares the variants with eager torch in FP32. Every stage has a log there, and a deadline.
#
# Exit code: 0 where all that is here works; 1 where some of it failed; 2 where every stage was skipped.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(command -v "${PYTHON:-python3}") || { echo "error: PYTHON: ${PYTHON:-python3} is not there" >&2; exit 1; }
[ -x "$python" ] && python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") # we leave this folder below
recipes=${RECIPES:-torch-cuda cuda-fp16 tensorrt-fp16 tensorrt-int8}
wheels=${1:+$(cd "$1" && pwd)} || exit 1
mkdir -p "${OUT:-gpu-results}" && out=$(cd "${OUT:-gpu-results}" && pwd) && cd "$out" || exit 1
export PYTHONPATH="$out/site:$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export KRISHI_CACHE="${KRISHI_CACHE:-$out/cache}"
table="" failed=0 done=0

row() { # NAME STATE SECONDS DETAIL
    table+=$(printf '%-14s %-8s %5s s  %s' "$1" "$2" "$3" "$4")$'\n'
    case $2 in failed) failed=1 ;; passed) done=1 ;; esac
}

stage() { # NAME DEADLINE COMMAND...: its output goes to NAME.txt, its last line into the table
    local name=$1 deadline=$2 start=$SECONDS code=0 state=passed detail
    shift 2
    echo "== $name" >&2
    # Ctrl-C first: a run then keeps what is finished.
    timeout -s INT -k 10 "$deadline" "$@" >"$out/$name.txt" 2>&1 || code=$?
    cat "$out/$name.txt" >&2
    detail=$(grep -m 1 "^nvidia " "$out/$name.txt" || grep -v '^[[:space:]]*$' "$out/$name.txt" | tail -n 1)
    [ "$code" -eq 0 ] || state=failed
    case $code in 124 | 137) detail="not done after $deadline s; $detail" ;; esac
    row "$name" "$state" $((SECONDS - start)) "${detail:0:150}"
    [ "$code" -eq 0 ]
}

finish() {
    printf '\n%s' "$table" | tee "$out/stages.txt"
    [ "$failed" -eq 0 ] || exit 1
    [ "$done" -eq 1 ] && exit 0
    exit 2
}

gpu=$("$python" - <<'PY'
import importlib.util
from workbench.system.nvidia_check import missing_link
print(missing_link("GPU") or "")
PY
) || { row python failed 0 "$python cannot import krishi-bench"; finish; }
if [ -n "$gpu" ] && [ -z "${WITHOUT_GPU:-}" ]; then # WITHOUT_GPU: go on all the same, to try this script itself
    for name in wheels doctor tests $recipes summary; do row "$name" skipped 0 "$gpu"; done
    finish
fi

if [ -z "$wheels" ]; then
    row wheels skipped 0 "no folder of wheels was given"
else
    stage wheels 45 "$python" "$here/benchmarks/gpu_wheels.py" unpack "$wheels" "$out/site"
    # onnxruntime looks for NVIDIA's libraries beside itself, and they are where torch is.
    found=$("$python" -c 'import glob, nvidia
print(":".join(path for folder in nvidia.__path__ for path in glob.glob(folder + "/*/lib")))' 2>/dev/null)
    export LD_LIBRARY_PATH="${found:+$found:}${LD_LIBRARY_PATH:-}"
fi
if ! missing=$("$python" -c 'import numpy, packaging, PIL, psutil, pydantic, rich, typer, yaml' 2>&1); then
    row packages failed 0 "$(tail -n 1 <<<"$missing"): carry it in, or pip install '$here'"
    finish
fi

stage doctor 30 "$python" -m workbench.cli doctor --quiet

if [ -n "$gpu" ]; then
    row tests skipped 0 "$gpu"
elif ! missing=$("$python" -c 'import pytest, hypothesis' 2>&1); then
    row tests skipped 0 "$(tail -n 1 <<<"$missing")"
else
    # -W: the packages here are not those that were pinned, and may warn of what is to come.
    stage tests 90 env -C "$here" "$python" -m pytest -q -W default -m gpu -p no:cacheprovider tests/gpu
fi

# Which recipes have a variant that can run here; the others by their reason.
ready=()
while IFS=$'\t' read -r name reason; do
    if [ -n "$reason" ]; then row "$name" skipped 0 "$reason"; else ready+=("$name"); fi
done < <("$python" - $recipes <<'PY'
import sys
from workbench.backends import backend_of
from workbench.workspace.recipe import find, read

for name in sys.argv[1:]:
    reasons = [backend_of(v.runtime).unavailable(v.runtime) for v in read(find(name))]
    print(name, (reasons[0] or "") if all(reasons) else "", sep="\t")
PY
)

if [ ${#ready[@]} -eq 0 ]; then
    row summary skipped 0 "no recipe was run"
    finish
fi
stage run 290 "$python" -m workbench.cli run "${ready[@]}" --time-budget "${TIME_BUDGET:-60s}"
stage summary 20 "$python" "$here/benchmarks/gpu_summary.py" --output "$out/summary.md" --recipes "${ready[@]}"
while IFS=$'\t' read -r name state detail; do
    row "$name" "$state" - "${detail:0:150}"
done < <(grep -P '\t' "$out/summary.txt")
[ ! -f "$out/summary.md" ] || cat "$out/summary.md"
finish
