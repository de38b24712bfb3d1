"""What can be configured: settings with their defaults, their checks, and the presets of configs/."""

from alignjax.config.asking import ConstraintSettings, GroupSettings, TailSettings, TestSettings
from alignjax.config.checks import check, check_batches, check_kernel
from alignjax.config.reading import determining, from_mapping, to_mapping
from alignjax.config.settings import (
    BaselineSettings,
    Config,
    DataSettings,
    EvaluationSettings,
    JudgeSettings,
    LoraSettings,
    LossSettings,
    MeshSettings,
    ModelSettings,
    PreferenceTrainingSettings,
    RelabelSettings,
    RoundSettings,
    SamplingSettings,
    ScoreModelSettings,
    ScoreSettings,
    SourceSettings,
    TrainingSettings,
)

__all__ = [
    "BaselineSettings",
    "Config",
    "ConstraintSettings",
    "DataSettings",
    "EvaluationSettings",
    "GroupSettings",
    "JudgeSettings",
    "LoraSettings",
    "LossSettings",
    "MeshSettings",
    "ModelSettings",
    "PreferenceTrainingSettings",
    "RelabelSettings",
    "RoundSettings",
    "SamplingSettings",
    "ScoreModelSettings",
    "ScoreSettings",
    "SourceSettings",
    "TailSettings",
    "TestSettings",
    "TrainingSettings",
    "check",
    "check_batches",
    "check_kernel",
    "determining",
    "from_mapping",
    "to_mapping",
]
