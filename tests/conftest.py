"""Strict switches for every test: eight devices, no silent promotion of ranks or types."""

import atexit
import contextlib
import io
import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Compiling is most of the suite's work, and many tests and commands compile the same: the first process makes
# a cache that its workers, and the commands that tests start, find by these names. It goes with the process.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="alignjax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# XLA's optimizations cost more than they gain on programs this small. The main job, which .ci/run runs
# beside the tests, is compiled with them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

# Nor do they gain by the emitters that write fused loops through MLIR, or by compiling the parts of a program
# side by side, where each core has a test to run already. Without both, compiling takes half the time.
if "fusion_emitters" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
        + os.environ.get("XLA_FLAGS", "")
    )

import jax
import pytest
from absl import flags
from xdist.scheduler import LoadFileScheduling

import alignjax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


_LONGEST = ("tests/end_to_end/", "tests/docs/", "tests/test_notebooks.py", "tests/planning/", "tests/dual/")


# Files whose tests are on the same finished runs, and so go to the same process.
_TOGETHER = {
    f"tests/end_to_end/test_{name}.py": method
    for method, names in {
        "pecan": "compilations pecan damage dial int8",
        "mocan": "mocan promise judges",
    }.items()
    for name in names.split()
}


class _Scheduling(LoadFileScheduling):
    """Gives files to processes, some of them together."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return _TOGETHER.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """As --dist=loadfile, which pyproject.toml names."""
    return _Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process ends with one of them alone."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))


_MOST_MAPS = 20_000  # of memory, after which compiled programs are freed


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs() -> Iterator[None]:
    """Frees compiled programs at the end of a module, once there are many; until then others can use them.

    Every program holds memory maps, and Linux allows a process 65,530 (vm.max_map_count). The whole suite
    compiles more than that; then XLA's compiler ends in a segmentation fault.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def one_device() -> Iterator[None]:
    """Runs that do not name their devices have one, and not the eight that every test is given."""
    # Here, because most tests need no workflow.
    from alignjax.runtime.mesh import make_mesh
    from alignjax.workflow import setup

    def make(*, devices: Any, **sizes: int) -> Any:
        return make_mesh(**sizes, devices=devices or jax.devices()[:1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_mesh", make)
        yield


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def _own_flags() -> dict[str, flags.Flag]:
    """Flags that commands of this package have defined; absl has one table of flags a process."""
    names = [n for n in flags.FLAGS if n.startswith("config") or "alignjax" in str(_module(n))]
    return {name: flags.FLAGS[name] for name in names}


def _module(name: str) -> str | None:
    return flags.FLAGS.find_module_defining_flag(name)


@pytest.fixture(scope="session")
def command() -> Command:
    """command("train", "--config=...") runs the module as `python -m alignjax.train --config=...` does."""

    def run(name: str, *arguments: object) -> Outcome:
        path = str(Path(alignjax.__file__).parent / f"{name}.py")
        before, parsed = _own_flags(), flags.FLAGS.is_parsed()
        for flag in before:
            delattr(flags.FLAGS, flag)
        sys.modules.pop("config_config", None)  # where ml_collections keeps the last configuration file
        out, err = io.StringIO(), io.StringIO()
        try:
            with (
                pytest.MonkeyPatch.context() as patch,
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                pytest.raises(SystemExit) as ended,
            ):
                patch.setattr(sys, "argv", [path, *map(str, arguments)])
                runpy.run_path(path, run_name="__main__")
        finally:
            for flag in _own_flags():
                delattr(flags.FLAGS, flag)
            for flag, value in before.items():
                flags.FLAGS[flag] = value
            if not parsed:
                flags.FLAGS.unparse_flags()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def chain_model() -> Callable[..., Path]:
    """chain_model(folder, {"sorry": "safe", ...}) writes a model whose next word the last one decides.

    Other words are <unk>, and have the follower of "<unk>"; what has no follower ends the text.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from alignjax.models import DecoderConfig, Model, init_params, save_pretrained

    def write(
        folder: Path, following: dict[str, str], *, chat_template: str | None = None, max_positions: int = 512
    ) -> Path:
        words = list(dict.fromkeys(["<unk>", "<s>", "</s>", *following, *following.values()]))
        ids = {word: i for i, word in enumerate(words)}
        backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<s>", "</s>")])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        tokenizer.chat_template = chat_template
        width = 2 * ((len(words) + 1) // 2)
        config = DecoderConfig(
            "llama", len(words), width, 2, 1, 1, 1, width, max_positions=max_positions, eos_ids=(2,)
        )
        # Layers add nothing, and every word has a direction of its own: what comes out is what stands last.
        params = jax.tree.map(jax.numpy.zeros_like, init_params(jax.random.key(0), config))
        params["embedding"] = jax.numpy.eye(len(words), width)
        params["final_norm"]["scale"] = jax.numpy.ones(width)
        heads = [ids[following.get(word, "</s>")] for word in words]
        params["head"] = params["head"].at[jax.numpy.arange(len(words)), jax.numpy.array(heads)].set(1.0)
        save_pretrained(Model(params, config, tokenizer), folder)
        return folder

    return write
