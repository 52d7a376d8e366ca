#!/usr/bin/env bash
# Everything that needs a GPU, in one go and in under eight minutes: tests on CUDA, compute-sanitizer over the kernel
# tests, every bench. Writes benches/results/<gpu>.json and prints a short table last.
#   benches/gpu_session.sh [OUT]      OUT: where logs and results go (default: benches/results)
# Expects the package importable with its kernels built (pip install . or an in-place build).
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benches/results}
mkdir -p "$out"
table=()
step() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "=== $name"
  if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then local result=ok; else local result="FAILED ($?)"; fi
  tail -n 3 "$out/$name.log"
  table+=("$(printf '%-22s %-12s %4d s   %s' "$name" "$result" $((SECONDS - start)) "$(grep -E 'passed|failed|ERROR SUMMARY' "$out/$name.log" | tail -n 1)")")
}
python -m robustdml_ext.run doctor
step tests 200 python -m pytest python_tests -q
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [ -x "$sanitizer" ]; then
  # A few examples of each property are enough here: the tools slow every launch down fifty times.
  export HYPOTHESIS_PROFILE=few
  step memcheck 90 "$sanitizer" --tool memcheck --error-exitcode 9 python -m pytest python_tests/ops -q -k "not compile and not opcheck"
  step racecheck 60 "$sanitizer" --tool racecheck --error-exitcode 9 python -m pytest python_tests/ops -q -k "segment or definition or equation"
  unset HYPOTHESIS_PROFILE
else
  table+=("compute-sanitizer      not found")
fi
# faiss and the decoding of images run on the CPU here as everywhere.
step benches 125 python -m pytest benches --device cuda --results "$out" -q -k "not faiss and not reading"
printf '\n%s\n' "${table[@]}"
