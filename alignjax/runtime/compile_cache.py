"""Compiled programs that are kept on the disk, so that a command compiles what it has not compiled before."""

import hashlib
import os
import platform
from pathlib import Path

import jax

from alignjax.errors import InputError

# Programs that take less than this to compile are not kept: reading them back costs about as much.
_LEAST_SECONDS = 0.1
_MOST_BYTES = 4 * 2**30  # of all programs together; those that were not used for longest go first
OFF = "none"


def use_compile_cache(given: str = "") -> Path | None:
    """Makes JAX keep compiled programs; to be called before anything is compiled.

    Where the user has set JAX's own cache (JAX_COMPILATION_CACHE_DIR) and names no other, that one stays.

    Args:
      given: folder; "none": programs are not kept; empty: alignjax/ in the user's folder for caches
        (XDG_CACHE_HOME, by default ~/.cache). If that cannot be written to, programs are not kept.

    Returns:
      The folder that is used, one for each kind of processor below that given; None: none, or JAX's own.

    Raises:
      InputError: the folder that is given cannot be written to.
    """
    if given == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    if not given and jax.config.values["jax_compilation_cache_dir"]:
        return None
    folder = Path(given) if given else _default()
    if folder is None:
        return None
    # A program for a CPU uses the instructions of the one that it was compiled on, and a home folder may be
    # shared by machines of several kinds.
    folder = folder / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if not given:
            return None
        raise InputError(
            f"--compile_cache={given}: cannot be made ({error.strerror}); name another folder, or {OFF}."
        ) from None
    if not os.access(folder, os.W_OK):
        if not given:
            return None
        raise InputError(f"--compile_cache={given}: cannot be written to; name another folder, or {OFF}.")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _default() -> Path | None:
    """The folder for programs where none is given; None: the user has no home."""
    above = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return Path(above) / "alignjax" if above else Path.home() / ".cache" / "alignjax"
    except RuntimeError:
        return None


def _processor() -> str:
    """A name for this kind of processor: its architecture, and a digest of the instructions that it knows."""
    known = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        known = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    digest = hashlib.sha256(f"{known} {platform.processor()}".encode()).hexdigest()[:12]
    return f"{platform.machine()}-{digest}"
