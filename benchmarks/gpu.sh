#!/usr/bin/env bash
# The benchmarks on a CUDA device, for PyTorch and JAX, in at most 8 minutes. Values are checked
# before they are timed. Needs Python and pip; writes benchmarks/results/gpu/<backend>.json.
#
#     benchmarks/gpu.sh [folder for the environments]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)}
declare -A packages=([torch]="torch" [jax]="jax[cuda12]")
for backend in torch jax; do
  python3 -m venv "$folder/$backend"
  "$folder/$backend/bin/pip" install --quiet "${packages[$backend]}" .
  KERAS_BACKEND=$backend timeout 150 \
    "$folder/$backend/bin/python" benchmarks/run.py --seconds 0.05 || echo "$backend: cut off"
done
