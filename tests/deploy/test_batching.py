"""Which photos share a batch, and the canvases that they lie on."""

import threading

import numpy as np
import pytest

from maskclip_jax.deploy.server.batching import Job, JobQueue, portions
from maskclip_jax.deploy.server.settings import (
  Refused,
  Settings,
  default_canvases,
  smallest_canvas,
)
from maskclip_jax.plan import Plan
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.contract import Scores
from maskclip_jax.systems.system import Preprocessing
from maskclip_jax.text.vocabulary import Vocabulary


def job(words='cat', canvas=(64, 64), content='a', **scores) -> Job:
  plan = Plan(
    Vocabulary.parse(words),
    ('panoptic',),
    Preprocessing(),
    PostprocessConfig(),
    Scores(**scores),
  )
  return Job(content, np.zeros((1, 1, 3), np.uint8), (1, 1), canvas, plan, words)


def test_equal_canvases_and_words_share_a_batch_and_the_oldest_goes_first():
  queue = JobQueue()
  jobs = [
    job('dog'),
    job('cat'),
    job('dog', canvas=(64, 96)),
    job('dog'),
    job('dog', coat=0.5),
    job('cat'),
    job('dog'),
  ]
  for one in jobs:
    queue.put(one)
  batches = []
  queue.close()
  while batch := queue.take(2):
    batches.append([jobs.index(one) for one in batch])
  assert batches == [[0, 3], [1, 5], [2], [4], [6]]


def test_cancelled_jobs_are_not_computed():
  queue, jobs = JobQueue(), [job(), job(), job()]
  for one in jobs:
    queue.put(one)
  assert jobs[1].answer.cancel()
  assert queue.take(4) == [jobs[0], jobs[2]]


def test_a_closed_queue_hands_out_what_it_has():
  queue, one = JobQueue(), job()
  taken = []
  thread = threading.Thread(target=lambda: taken.append(queue.take(4)))
  thread.start()
  queue.put(one)
  thread.join(10)
  assert taken == [[one]]
  queue.close()
  assert queue.take(4) == []
  with pytest.raises(RuntimeError, match='stopping'):
    queue.put(one)


@pytest.mark.parametrize('batch', [1, 2, 3, 4, 6, 8])
def test_any_number_of_photos_has_programs(batch):
  sizes = Settings(batch=batch).sizes
  assert sizes[-1] == batch
  for count in range(2 * batch):
    found = portions(count, sizes)
    assert sum(found) == count
    assert set(found) <= set(sizes)


@pytest.mark.parametrize(('short', 'long'), [(128, 256), (800, 1333), (1024, 2560)])
def test_the_default_canvases_hold_every_photo(short, long):
  preprocessing = Preprocessing(short, long)
  canvases = default_canvases(preprocessing)
  assert len(canvases) <= 5
  plan = job().plan
  plan = Plan(plan.words, plan.tasks, preprocessing, plan.postprocessing, plan.scores)
  random = np.random.default_rng(0)
  for size in np.exp(random.uniform(0, 9, (300, 2))).astype(int):
    resized = plan.resized(tuple(size.tolist()))
    canvas = smallest_canvas(canvases, resized)
    assert canvas[0] >= resized[0]
    assert canvas[1] >= resized[1]
  with pytest.raises(Refused, match='short_edge'):
    smallest_canvas(canvases, (long + 32, long + 32))


@pytest.mark.parametrize(
  ('settings', 'said'),
  [
    ({'batch': 0}, 'batch must be at least 1'),
    ({'timeout': float('nan')}, 'timeout must be above 0'),
    ({'max_words': 20_000}, 'max_words must be below 16384'),
    ({'canvases': ((100, 128),)}, 'multiples of 32'),
  ],
)
def test_settings_that_make_no_server(settings, said):
  with pytest.raises(ValueError, match=said):
    Settings(**settings)


def test_a_bucket_holds_the_words_and_void():
  assert Settings(max_words=255).bucket == 256
  assert Settings(max_words=256).bucket == 1024
