"""The benchmark's command line and records, as the checks use them."""

from __future__ import annotations

import json

from ci.gate.commands import Gate
from gpuconv.types import Record


def bench(gate: Gate, *words: str) -> list[str]:
    where = ["--device", gate.device, "--results", str(gate.out / "results"), "--commit", gate.commit]
    return ["-m", "bench", words[0], *where, *words[1:]]


def entries_of(gate: Gate) -> list[Record]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (gate.out / "results").glob("*/*.json")]
    return [entry for record in records for entry in record["entries"]]
