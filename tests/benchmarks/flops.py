"""Floating-point operations of an encoder, counted from its shape."""

from __future__ import annotations

import numpy as np

from lmtx_jax.model.transformer import TransformerConfig


def forward_flops(config: TransformerConfig, lengths: np.ndarray) -> float:
  """Of embedding texts; a multiplication and an addition are two.

  The matrix products alone, without padding, as is usual for the share of a
  device's peak that is used (PaLM, appendix B). With the gradient it is thrice
  as much.

  Args:
    config: of the encoder.
    lengths: `[n]` tokens of each text.
  """
  tokens = np.asarray(lengths, np.float64)
  weights = 4 * config.dim**2 + 2 * config.dim * config.ffn_dim  # a layer
  attention = 2 * config.dim * tokens  # scores and their sum of values
  return float(config.num_layers * (2 * tokens * (weights + attention)).sum())


def rate(flops: float, seconds: float, peak_tflops: float) -> dict[str, float]:
  """Operations a second, and their share of the peak where that is known."""
  tflops = flops / seconds / 1e12
  row = {'ours_tflops': round(tflops, 4)}
  if peak_tflops:
    row['mfu'] = round(tflops / peak_tflops, 4)
  return row
