"""Paths that the driver can open: a cubin in a folder whose name is not ASCII is loaded from a copy."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from gpuconv.backends.cuda.runtime.nvrtc import CompileError


def loadable(path: str | Path) -> str:
    """A path from which CuPy can load a binary: the given path if it is ASCII, else the path of a new copy. CuPy
    encodes paths in UTF-8, which fails if a folder's name has bytes that are not UTF-8. The Windows driver does not
    read UTF-8 paths. Raises CompileError if the path of the folder for temporary files is not ASCII either.
    """
    if str(path).isascii():
        return str(path)
    copy = _folder_of_copies() / f"{Path(path).parent.name.encode('ascii', 'replace').decode()}.cubin".replace("?", "_")
    if not str(copy).isascii():
        raise CompileError(
            f"the driver cannot open {copy!s}, whose name is not ASCII; set GPUCONV_CACHE_DIR to an ASCII path"
        )
    shutil.copyfile(path, copy)
    return str(copy)


@functools.cache
def _folder_of_copies() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gpuconv-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
