"""Stored records to bytes and back: tf.train.Example protos, without TensorFlow.

Reading goes straight to the proto: TFDS's own parser makes one Python object per number
and takes twenty times as long.
"""

import functools
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from maskclip_jax.data import schema


@functools.cache
def _features():
  return schema.features()


def serialise(record: schema.Record) -> bytes:
  """Encodes a record as its TFDS features prescribe.

  Raises:
    ValueError: a field is missing or of another type.
  """
  features = _features()
  data = features.serialize_example(features.encode_example(record))
  # The order of a proto's map is free; fix it, so that equal builds are equal files.
  return tf_example_pb2.Example.FromString(data).SerializeToString(deterministic=True)


def parse(data: bytes) -> schema.Record:
  """Decodes a record.

  Raises:
    ValueError: the bytes are no record, or of another schema.
  """
  try:
    feature = tf_example_pb2.Example.FromString(data).features.feature
    return {
      'image': _bytes(feature, 'image'),
      'image_id': _bytes(feature, 'image_id').decode(),
      'file_name': _bytes(feature, 'file_name').decode(),
      'height': feature['height'].int64_list.value[0],
      'width': feature['width'].int64_list.value[0],
      'segments': _bytes(feature, 'segments'),
      'segments_info': _table(feature, 'segments_info'),
      'semantic': _bytes(feature, 'semantic'),
      'instances': {
        **_table(feature, 'instances'),
        'segmentation': _texts(feature, 'instances/segmentation'),
      },
      'captions': _texts(feature, 'captions'),
      'subsets': _texts(feature, 'subsets'),
    }
  except (DecodeError, IndexError) as error:
    raise ValueError(
      f'a record of {len(data)} bytes cannot be read: the dataset is damaged or was '
      'not built by this program, build it again'
    ) from error


def _bytes(feature: Any, name: str) -> bytes:
  return feature[name].bytes_list.value[0]


def _texts(feature: Any, name: str) -> list[str]:
  return [value.decode() for value in feature[name].bytes_list.value]


def _table(feature: Any, name: str) -> schema.Table:
  table = {}
  for column, dtype in schema.COLUMNS.items():
    value = feature[f'{name}/{column}']
    kind = value.float_list if dtype == np.float32 else value.int64_list
    table[column] = np.array(kind.value, dtype)
  boxes = feature[f'{name}/bbox'].float_list.value
  table['bbox'] = np.array(boxes, np.float32).reshape(-1, 4)
  return table
