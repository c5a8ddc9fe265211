import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def requirements():
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  return [line for line in lines if line and not line.startswith('#')]


def version():
  text = (ROOT / 'lmtx_jax' / '__init__.py').read_text()
  return re.search(r"__version__ = '([^']+)'", text).group(1)


setup(
  name='lmtx_jax',
  version=version(),
  description='Zero-shot extreme tagging with an LLM teacher, in JAX and Flax',
  long_description=(ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=find_packages(include=['lmtx_jax', 'lmtx_jax.*']),
  package_data={'lmtx_jax.serving': ['*.html', '*.css', '*.js']},
  python_requires='>=3.11',
  install_requires=requirements(),
  extras_require={
    'test': [
      'hypothesis>=6.100,<7',
      'pytest>=8,<10',
      'pytest-xdist>=3.6,<4',
      'ruff>=0.17,<0.18',
    ],
    # Runs launch/colab.ipynb, as .ci/run does.
    'notebook': [
      'ipykernel>=6.29,<8',
      'nbclient>=0.10,<0.12',
    ],
    # Parity with PyTorch, and peers of the benchmarks. torch can bring
    # gigabytes of CUDA packages: ask for a CPU build first if you want none.
    'parity': [
      'sentence-transformers>=5,<7',
      'torch>=2.6,<3',
    ],
    # All peers of tests/benchmarks; hnswlib is compiled, and needs a C++
    # compiler.
    'benchmarks': [
      'bm25s>=0.2,<0.4',
      'faiss-cpu>=1.8,<2',
      'hnswlib>=0.8,<0.9',
      'onnx>=1.16,<2',
      'onnxruntime>=1.18,<2',
      'sentence-transformers>=5,<7',
      'torch>=2.6,<3',
    ],
    # The server of the LLM teacher; best in an environment of its own.
    'teacher': ['sglang>=0.5,<0.6'],
  },
)
