"""Starts the stock PyPI server of SGLang on a CPU without AMX and AVX-512.

Two shims, both of imports only. This top-level code also runs in each process
that the server spawns, as spawning imports __main__ again.

- sgl_kernel: PyPI has no wheel of it for a CPU. With SGLANG_USE_CPU_ENGINE=1
  sglang imports some names from it, but where there is no AMX every operation
  of a dense Llama or Qwen has a fallback in PyTorch alone. A name that is
  called all the same fails loudly.
- torchvision: PyPI's wheel is a build for CUDA, whose C++ operations do not
  load beside a torch for the CPU. The schemas of the two that its Python side
  registers fake kernels for are enough to import it.
"""

import importlib.machinery
import os
import runpy
import sys
import types

os.environ.setdefault('SGLANG_USE_CPU_ENGINE', '1')

import torch

_NMS = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'


class KernelStub(types.ModuleType):
  """A module that holds every name, and can do nothing."""

  def __init__(self, name: str):
    super().__init__(name)
    self.__path__ = []
    self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

  def __getattr__(self, name: str):
    if name.startswith('__'):
      raise AttributeError(name)

    def missing(*args, **kwargs):
      raise NotImplementedError(f'sgl_kernel.{name} has no fallback on a CPU')

    return missing


for operation in ('nms', 'qnms'):
  torch.library.define(f'torchvision::{operation}', _NMS)
sys.modules.setdefault('sgl_kernel', KernelStub('sgl_kernel'))

if __name__ == '__main__':
  sys.argv[0] = 'sglang.launch_server'
  runpy.run_module('sglang.launch_server', run_name='__main__')
