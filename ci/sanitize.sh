#!/usr/bin/env bash
# Every kernel over the small case tiers, in shuffled thread orders under the emulator's checker, then under
# AddressSanitizer and UndefinedBehaviorSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
cases=(verify --device emulated --tier tiny --tier odd --dtype float32)
GPUCONV_EMULATOR_SANITIZE=checked GPUCONV_EMULATOR_SEED=7 python -m gpuconv "${cases[@]}"
python - "${cases[@]}" <<'PYTHON'
import subprocess
import sys

from gpuconv.backends.cuda.emulator import address_environment

command = [sys.executable, "-m", "gpuconv", *sys.argv[1:]]
raise SystemExit(subprocess.run(command, env=address_environment()).returncode)
PYTHON
