"""The configuration of the toy's training: two steps on generated pictures."""

import ml_collections


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The only stage."""
  del arg
  return ml_collections.ConfigDict(
    {
      'task': 'toy_grouping',
      'preset': 'toy_tiny',
      'total_steps': 2,
      'data': {'generated': 8, 'canvas': 64, 'batch_size': 2, 'max_segments': 8},
      'log': {'every': 1},
      'checkpoint': {'every': 2},
      'start': {'model': {'source': '', 'hint': 'a bundle of the toy'}},
    }
  ).lock()
