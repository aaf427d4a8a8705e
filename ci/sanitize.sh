#!/usr/bin/env bash
# Every kernel over the small case tiers, in shuffled thread orders under the emulator's checker, then under
# AddressSanitizer and UndefinedBehaviorSanitizer; under these also tensor cores and optimizers in float16.
set -euo pipefail
cd "$(dirname "$0")/.."
single=(--tier tiny --tier odd --dtype float32)
half=(--tier tiny --dtype float16)
for op in conv2d_relu conv2d_dgrad conv2d_wgrad sgd_step adam_step muon_step update_loss_scale; do half+=(--op "$op"); done

verify=(-m gpuconv verify --device emulated)
GPUCONV_EMULATOR_SANITIZE=checked GPUCONV_EMULATOR_SEED=7 python "${verify[@]}" "${single[@]}"
for cases in single half; do
    declare -n chosen=$cases
    python - "${verify[@]}" "${chosen[@]}" <<'PYTHON'
import subprocess
import sys

from gpuconv.backends.cuda.emulator import address_environment

raise SystemExit(subprocess.run([sys.executable, *sys.argv[1:]], env=address_environment()).returncode)
PYTHON
done
