"""Ask one question and print the verdict."""

from __future__ import annotations

import argparse

from ci.gate.experiments import QUESTIONS, UnknownError, ask
from ci.gate.verdict import Verdict, verdict_line


def main() -> None:
    parser = argparse.ArgumentParser("python -m ci.gate.experiments")
    parser.add_argument("name", choices=QUESTIONS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="do less work, for a rehearsal")
    options = parser.parse_args()
    question = QUESTIONS[options.name]
    print(f"question: {question}", flush=True)
    try:
        answer, seen = ask(options.name, options.device, options.small)
    except UnknownError as why:
        answer, seen = "unknown", str(why)
    print(verdict_line(Verdict(question, answer, seen)))


if __name__ == "__main__":
    main()
