"""What a run compiles: every program once, and no more of them than are known."""

import collections
import re

# "Compiling jit(step) with global shapes and types (ShapedArray(int32[]), ...). Argument mapping: (...)."
COMPILING = re.compile(r"Compiling (?:jit\()?([\w.<>]+)\)? with global shapes and types (.*)")
# The programs of the run tiny, by name. A lower number is an improvement: write it here.
PROGRAMS = {
    "step": 2,  # the reference is trained on texts, its policies on pairs
    "_slot_logps": 2,  # of pairs, with and without adapters
    "_shared_logps": 4,  # of responses that share a prompt, with and without adapters
    "admit_jit": 2,  # the sampler's prompts, with and without adapters
    "advance_jit": 2,  # its next tokens
    "_completion_kl": 1,
    "_newton": 1,
}
# Every training has an optimizer of its own, of which its first state is made.
REPEATED = {"build"}
MOST = 72  # of all, single operations included
# With fewer arguments it is a single operation, compiled again for other parameters than shapes.
FEW_ARGUMENTS = 6


def test_every_program_is_compiled_once(watched_run):
    found = [match.groups() for line in watched_run.compiled if (match := COMPILING.match(line))]
    assert len(found) > 20, watched_run.compiled[:3]  # else JAX writes these lines in another way
    programs = [(name, shapes) for name, shapes in found if shapes.count("ShapedArray") >= FEW_ARGUMENTS]
    repeated = {name: shapes for (name, shapes), n in collections.Counter(programs).items() if n > 1}
    assert set(repeated) <= REPEATED, repeated
    counts = collections.Counter(name for name, _ in programs)
    assert {name: counts[name] for name in PROGRAMS if counts[name] > PROGRAMS[name]} == {}
    assert len(found) <= MOST, collections.Counter(name for name, _ in found).most_common(20)
