"""Few shapes, and batches that waste little of them."""

import numpy as np
import pytest

from lmtx_jax.serving.shapes import Shape, shapes_of, size_for, width_for


def test_the_first_shape_holds_any_document():
  assert shapes_of(np.array([40, 64, 128]), 512, 1)[0] == Shape(128, 1)
  assert shapes_of(np.array([40, 64, 128]), 512, 8)[0] == Shape(128, 8)


def test_short_documents_have_a_width_too():
  widths = {shape.width for shape in shapes_of(np.array([256]), 512, 1)}
  assert widths == {256, 128, 64, 32}


def test_widths_are_few_and_hold_the_longest():
  shapes = shapes_of(np.arange(8, 513, 8), 512, 1)
  widths = {shape.width for shape in shapes}
  assert len(widths) == 10
  assert max(widths) == 512


@pytest.mark.parametrize('devices', [1, 4])
def test_batches_stay_within_their_tokens(devices):
  shapes = shapes_of(np.array([40, 128]), 512, devices)
  assert len(set(shapes)) == len(shapes)
  assert Shape(128, 4 * devices) in shapes
  for width, size in shapes:
    assert size % devices == 0
    assert width * size <= 512 * devices or size == devices


def test_a_document_of_any_length_has_a_width():
  shapes = shapes_of(np.array([40, 64, 128]), 512, 1)
  widths = np.unique([shape.width for shape in shapes])
  for length in range(2, 129):
    assert width_for(length, shapes) == min(widths[widths >= length])


def test_little_of_a_batch_is_padding():
  shapes = [Shape(64, size) for size in (1, 4, 16)] + [Shape(128, 1)]
  sizes = [size_for(waiting, 64, shapes) for waiting in range(1, 18)]
  assert sizes == [1, 1, 4, 4, 4, 4, 4, 4, 4, 4, 4, 16, 16, 16, 16, 16, 16]
  assert size_for(50, 128, shapes) == 1
