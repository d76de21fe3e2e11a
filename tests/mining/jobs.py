"""Small mining jobs with a model that comes with the package."""

import dataclasses
import pathlib

from maskclip_jax.data.build import build
from maskclip_jax.mining.job import MiningJob
from maskclip_jax.mining.nouns import NounRule
from maskclip_jax.mining.recipe import MiningConfig

MODEL = 'clip_baseline_miniature'
PHOTOS = 10


def build_scenes(folder: pathlib.Path) -> str:
  """A built dataset of a few captioned scenes with labels."""
  build('miniature', None, folder, sizes={'train': PHOTOS}, workers=1)
  return str(folder)


def job(data_dir: str, out: pathlib.Path, **changes) -> MiningJob:
  """A job of three shards; `changes` are fields of the job or of its config."""
  fields = {field.name for field in dataclasses.fields(MiningConfig)}
  config = MiningConfig(
    MODEL,
    NounRule('miniature-116'),
    **{name: value for name, value in changes.items() if name in fields},
  )
  values = {'data_dir': data_dir, 'photos_per_shard': 4}
  values |= {name: value for name, value in changes.items() if name not in fields}
  return MiningJob(config, 'miniature/captions', str(out), **values)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """All files of a folder, hidden ones included."""
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
