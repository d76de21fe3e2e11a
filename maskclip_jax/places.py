"""Where built datasets lie: DATA_DIR/NAME/VERSION, as TFDS lays them out."""

import os
import pathlib

# Raised whenever the content of records changes: old builds are then told apart.
VERSION = '1.0.0'
# Where TFDS puts its datasets.
DATA_DIR = '~/tensorflow_datasets'


def dataset_path(name: str, data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Where a dataset lies, whether it is built or not."""
  return pathlib.Path(os.path.expanduser(data_dir or DATA_DIR), name, VERSION)


def building_path(name: str, data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Where a dataset lies until its build is over."""
  final = dataset_path(name, data_dir)
  return final.with_name(final.name + '.building')
