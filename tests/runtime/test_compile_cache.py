import os
import subprocess
import sys

import pytest

from alignjax.errors import InputError
from alignjax.runtime.compile_cache import use_compile_cache

# Compiles one program that takes longer than the least time, and prints how many were found and were not.
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from alignjax.runtime import compile_cache
compile_cache._LEAST_SECONDS = 0.0
folder = compile_cache.use_compile_cache(sys.argv[1])
found = {"cache_hits": 0, "cache_misses": 0}
def heard(event, **_):
    name = event.rpartition("/")[2]
    if name in found:
        found[name] += 1
jax.monitoring.register_event_listener(heard)
jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(jnp.ones((8, 8))).block_until_ready()
print(folder is not None, found["cache_hits"], found["cache_misses"])
"""


def run(given, **environment):
    clean = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    command = [sys.executable, "-c", PROGRAM, given]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | environment, check=True)
    return done.stdout.split()


def test_the_second_process_compiles_nothing(tmp_path):
    kept, hits, misses = run("", XDG_CACHE_HOME=str(tmp_path))
    assert kept == "True" and hits == "0" and int(misses) >= 1
    assert list((tmp_path / "alignjax").glob("*-*/*"))
    assert run("", XDG_CACHE_HOME=str(tmp_path)) == ["True", misses, "0"]


def test_another_folder_none_and_jaxs_own(tmp_path):
    assert run(str(tmp_path / "mine"))[0] == "True" and (tmp_path / "mine").is_dir()
    assert run("none", XDG_CACHE_HOME=str(tmp_path / "c"))[0] == "False"
    own = run("", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"), XDG_CACHE_HOME=str(tmp_path / "c"))
    assert own[0] == "False" and not (tmp_path / "c").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match=r"--compile_cache=.*file/x: cannot be made \(Not a directory\)"):
        use_compile_cache(str(file / "x"))
    # The default is not what the user asked for: it is left out.
    assert run("", XDG_CACHE_HOME=str(file))[0] == "False"
