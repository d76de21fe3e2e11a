"""Photos on their way through a model, whatever one of them or the device does."""

import numpy as np
import pytest

from maskclip_jax import stream


class Plan:
  """Photos are arrays as they are."""

  def read(self, photo):
    if photo is None:
      raise ValueError('no photo')
    return photo, photo


class Model:
  """Answers with the first pixel of a photo; fails at canvases that are wide."""

  canvas_step = 32

  def __init__(self):
    self.batches = []

  def start(self, resized, sizes, plan, canvas=None, clock=None):
    if resized[0].shape[1] > 96:
      raise MemoryError('too wide')
    self.batches.append([int(photo[0, 0, 0]) for photo in resized])
    return lambda: resized

  def prediction(self, outputs, plan, photo=None):
    if photo[0, 0, 0] == 9:
      raise ValueError('no result')
    return int(outputs[0, 0, 0])


def photo(number, width=32):
  return np.full((32, width, 3), number, np.uint8)


def numbers(found):
  return [prediction for _, prediction in found]


@pytest.fixture(params=['cpu', 'gpu'])
def backend(request, monkeypatch):
  """A GPU gets the next photos before these are done."""
  monkeypatch.setattr(stream.jax, 'default_backend', lambda: request.param)


@pytest.mark.parametrize('batch_size', [1, 3])
def test_a_photo_that_fails_leaves_the_others(backend, batch_size):
  told, photos = [], [photo(1), None, photo(9), photo(2), None, photo(3)]
  found = stream.predictions(
    Model(), photos, Plan(), lambda given, error: told.append(str(error)), batch_size
  )
  assert numbers(found) == [1, 2, 3]
  assert sorted(told) == ['no photo', 'no photo', 'no result']


def test_what_runs_is_not_lost_where_the_next_cannot_start(backend):
  photos = [photo(1), photo(2), photo(3, width=128), photo(4)]
  results = stream.predictions(Model(), photos, Plan(), None)
  assert [next(results)[1] for _ in range(2)] == [1, 2]
  with pytest.raises(MemoryError, match='too wide'):
    next(results)


def test_black_photos_fill_the_last_batch():
  model, told = Model(), []
  photos = [photo(1), photo(2, width=64), photo(3), photo(4)]
  found = stream.predictions(model, photos, Plan(), told.append, batch_size=2)
  assert numbers(found) == [1, 3, 2, 4]
  assert model.batches == [[1, 3], [2, 0], [4, 0]]
  assert not told
  assert not list(stream.predictions(model, [], Plan(), None, batch_size=2))
