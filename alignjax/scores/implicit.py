"""Implicit rewards of policies that were trained with DPO."""

import numpy as np


def implicit_scores(logps: np.ndarray, ref_logps: np.ndarray, *, beta_pre: float) -> np.ndarray:
    """Implicit reward of a policy that was trained with DPO at KL weight `beta_pre`.

        r(x, y) = beta_pre (log pi(y|x) - log pi_ref(y|x))    up to a constant of the prompt

    Args:
      logps: [...] float, log pi of whole responses, nats, EOS included.
      ref_logps: [...] float, the same under the reference.
      beta_pre: KL weight > 0 of the pre-alignment.

    Returns:
      [...] float64, in units of the logits of the training labels. A constant of the prompt cancels in the
      dual, in label differences and in margins.

    Reference: Rafailov et al. 2023, arXiv 2305.18290, equation 5; Huang et al. 2024, arXiv 2405.19544, PeCAN.
    """
    return beta_pre * (np.asarray(logps, np.float64) - np.asarray(ref_logps, np.float64))
