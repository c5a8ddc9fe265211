"""LMTX in JAX: zero-shot tagging with a large language model as the teacher."""

__version__ = '0.1.0'
