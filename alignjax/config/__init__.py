"""What can be configured: settings with their defaults, their checks, and the presets of configs/."""

from alignjax.config.asking import ConstraintSettings, GroupSettings, TailSettings, TestSettings
from alignjax.config.audit import AuditSettings
from alignjax.config.checks import check, check_batches, check_kernel, check_template
from alignjax.config.judging import GUARDS, SCORE_MODELS, JudgeSettings
from alignjax.config.reading import determining, from_mapping, to_mapping
from alignjax.config.settings import (
    AlignSettings,
    BaselineSettings,
    Config,
    DataSettings,
    EvaluationSettings,
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
    "GUARDS",
    "SCORE_MODELS",
    "AlignSettings",
    "AuditSettings",
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
    "check_template",
    "determining",
    "from_mapping",
    "to_mapping",
]
