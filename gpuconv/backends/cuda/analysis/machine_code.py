"""The machine code of a compiled kernel: its instructions, and what the main loop of a matrix product issues.

Needs NVIDIA's nvdisasm (``pip install 'gpuconv[compile]'``), but no GPU and no driver.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gpuconv.backends.cuda.runtime.nvrtc import CompileError

_FUNCTION = re.compile(r"^\.text\.(\w+):$", re.MULTILINE)
_LABEL = re.compile(r"^(\.L_x_\d+):")
_TARGET = re.compile(r"\((\.L_x_\d+)\)")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ )?\s*([A-Z][\w.]*)(.*?);")


class Instruction(NamedTuple):
    """An instruction. opcode: with its modifiers, such as "HMMA.16816.F32.BF16". target: the index of the instruction
    to which a branch jumps; None for any other instruction."""

    opcode: str
    target: int | None


@dataclass(frozen=True)
class MainLoop:
    """What a warp issues in one iteration. instructions: how many it issues. hmma: how many of these multiply on tensor
    cores."""

    instructions: float
    hmma: float

    def share(self, hmma: int) -> MainLoop:
        """The part of an iteration that belongs to `hmma` multiplications, such as those of one tile of the depth."""
        return MainLoop(self.instructions * hmma / self.hmma, hmma)


@functools.cache
def disassembler() -> str:
    """The path of nvdisasm. Raises CompileError if there is none."""
    try:
        from cuda import pathfinder

        found = pathfinder.find_nvidia_binary_utility("nvdisasm") or shutil.which("nvdisasm")
    except ImportError:
        found = shutil.which("nvdisasm")
    if not found:
        raise CompileError("nvdisasm is not installed: pip install 'gpuconv[compile]'")
    return found


def disassemble(cubin: Path) -> dict[str, list[Instruction]]:
    """The instructions of each kernel of a cubin, by the kernel's name."""
    return {name: _instructions(code) for name, code in listings(cubin).items()}


def listings(cubin: Path, *options: str) -> dict[str, str]:
    """The code of each kernel of a cubin as nvdisasm prints it, by the name of the kernel. options: more options of
    nvdisasm, such as "-g", which adds the lines of the source."""
    listed = subprocess.run(
        [disassembler(), "-c", *options, cubin], capture_output=True, text=True, encoding="utf-8", check=True
    ).stdout
    _, *parts = _FUNCTION.split(listed)
    return {name: code.partition("\n\t.section")[0] for name, code in zip(parts[::2], parts[1::2])}


def _instructions(code: str) -> list[Instruction]:
    found: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in code.splitlines():
        if label := _LABEL.match(line.strip()):
            labels[label[1]] = len(found)
        elif instruction := _INSTRUCTION.search(line):
            found.append((instruction[1], instruction[2]))
    return [Instruction(opcode, _target(opcode, operands, labels)) for opcode, operands in found]


def _target(opcode: str, operands: str, labels: dict[str, int]) -> int | None:
    named = _TARGET.search(operands) if opcode.startswith("BRA") else None
    return labels.get(named[1]) if named else None


PRODUCTS = ("HMMA", "HGMMA")  # the opcodes of multiplications on tensor cores


def main_loop(instructions: list[Instruction], counted: tuple[str, ...] = PRODUCTS) -> MainLoop | None:
    """The loop with the most multiplications on tensor cores, the innermost of equal ones; None if no loop has any.
    Left out: code inside the loop that a branch can jump over and that adds, but neither multiplies on tensor cores nor
    copies, such as the sums of the bias gradient.

    counted: opcodes to count instead of multiplications; loops with multiplications are then left out.
    """
    loops = list[tuple[int, int, int]]()
    for end, (_, start) in enumerate(instructions):
        if start is not None and start <= end:
            inside = instructions[start : end + 1]
            if _count(inside, counted) and (counted == PRODUCTS or not _count(inside, PRODUCTS)):
                loops.append((_count(inside, counted), start, end))
    if not loops:
        return None
    _, begin, end = max(loops)
    skipped: set[int] = set()
    for at in range(begin, end):
        target = instructions[at].target
        if target is not None and at < target <= end:
            part = [each.opcode for each in instructions[at + 1 : target]]
            adds = any(opcode.startswith("FADD") for opcode in part)
            if adds and not any(opcode.startswith((*PRODUCTS, "LDGSTS")) for opcode in part):
                skipped.update(range(at + 1, target))
    body = [each for at, each in enumerate(instructions[begin : end + 1], begin) if at not in skipped]
    return MainLoop(len(body), _count(body, PRODUCTS))


def _count(instructions: list[Instruction], opcodes: tuple[str, ...]) -> int:
    return sum(each.opcode.startswith(opcodes) for each in instructions)
