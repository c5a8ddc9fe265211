"""The encoder, and its files on disk."""

import os

# transformers tells at import that PyTorch is absent; here it is meant to be.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
