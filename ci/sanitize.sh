#!/usr/bin/env bash
# Runs every op on the small cases of `gpuconv verify` in float32: in shuffled thread orders under the emulator's
# checker, and at the same time under AddressSanitizer and UndefinedBehaviorSanitizer. Under these two sanitizers, it
# also runs the tiny cases of the ops that use tensor cores, and of the optimizers' steps, in float16.
set -euo pipefail
cd "$(dirname "$0")/.."
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$logs"' EXIT
single=(--tier tiny --tier odd --dtype float32)
half=(--tier tiny --dtype float16)
ops=$(python -c '
from gpuconv.ops import OPS
print(*(name for name, op in OPS.items() if op.takes_algorithm or "scaling" in op.arrays))')
for op in $ops; do half+=(--op "$op"); done

verify=(-m gpuconv verify --device emulated)
checked() { GPUCONV_EMULATOR_SANITIZE=checked GPUCONV_EMULATOR_SEED=7 python "${verify[@]}" "$@"; }
address() {
    python - "${verify[@]}" "$@" <<'PYTHON'
import subprocess
import sys

from gpuconv.backends.cuda.emulator import address_environment

raise SystemExit(subprocess.run([sys.executable, *sys.argv[1:]], env=address_environment()).returncode)
PYTHON
}

{ address "${single[@]}" && address "${half[@]}"; } >"$logs/address" 2>&1 &  # mostly compiles, on one core
other=$!
checked "${single[@]}"
wait "$other" || { cat "$logs/address"; exit 1; }
cat "$logs/address"
