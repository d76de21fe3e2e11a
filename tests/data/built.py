"""Building datasets in the tests, and reading them."""

import pathlib
import time
from collections.abc import Callable

from maskclip_jax.data import records
from maskclip_jax.data.build import build
from maskclip_jax.data.sources import open_split


def rows(name: str, split: str, data_dir: pathlib.Path) -> dict[str, dict]:
  """All records of a split by image id, in file order."""
  data, _ = open_split(name, split, data_dir)
  parsed = [records.parse(data[position]) for position in range(len(data))]
  return {record['image_id']: record for record in parsed}


def built(name: str, raw: pathlib.Path, data_dir: pathlib.Path, **options) -> dict:
  """Builds a dataset and returns its records by split and image id."""
  result = build(name, raw, data_dir, **options)
  return {split: rows(name, split, data_dir) for split in result.examples}


def plain(record: dict) -> dict:
  """A record that `==` can compare."""
  return {
    key: {column: list(map(str, values)) for column, values in value.items()}
    if isinstance(value, dict)
    else value
    for key, value in record.items()
  }


def wait_for(true: Callable[[], object], seconds: float = 60) -> None:
  """Returns as soon as something holds; fails if it does not in time."""
  deadline = time.time() + seconds
  while not true():
    assert time.time() < deadline, f'still waiting after {seconds} seconds'
    time.sleep(0.02)
