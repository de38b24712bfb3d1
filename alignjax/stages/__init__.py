"""What a stage of a run is, and the folder that keeps what stages find.

stage.py         a stage: computes a value, saves and loads it, names what determines it and what it compiles
run.py           `Run`, which a method's box calls; in memory, without a folder
folder.py        the same on a run's folder: finished stages are loaded, files checked before they are read
ledger.py        run.json: for each stage the settings, the fingerprint and the digest of every file
fingerprints.py  digests of settings and of files
answers.py       earlier answers, kept under answers/
lock.py          one run a folder
"""

from alignjax.stages.folder import FolderRun
from alignjax.stages.run import MemoryRun, Run
from alignjax.stages.stage import Looks, Stage, Stored, Work

__all__ = ["FolderRun", "Looks", "MemoryRun", "Run", "Stage", "Stored", "Work"]
