"""Predictions as COCO's JSON: what pycocotools reads, and what panopticapi reads.

Detections are `annotations`, a row each. Panoptic segments have COCO's panoptic form:
one annotation a photo, with the PNG's name and `segments_info`. Both call their list
`annotations`, so a prediction that has both makes two files.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from maskclip_jax.results.files import outline

if TYPE_CHECKING:
  from maskclip_jax.results.prediction import Prediction


def prediction_json(
  prediction: 'Prediction', image: Mapping[str, Any], panoptic_file: str
) -> dict[str, Any]:
  """COCO's JSON of a prediction.

  Args:
    prediction: the prediction of one photo.
    image: COCO's row of the photo; `id` and `file_name` at least.
    panoptic_file: name of the PNG with the segment ids.

  Returns:
    `images`, `categories` and `annotations`: detections or, without detections, the
    panoptic form. The classes of a semantic map are rows of `semantic`.
  """
  content = _head(prediction, image)
  if prediction.instances is not None:
    content['annotations'] = [
      _row(prediction, image, i, d.class_index, d.rle, d.box, d.area, d.score)
      for i, d in enumerate(prediction.instances, 1)
    ]
  elif prediction.panoptic is not None:
    content['annotations'] = [_panoptic(prediction, image, panoptic_file)]
  if prediction.semantic is not None:
    by_column = np.asfortranarray(prediction.semantic)
    content['semantic'] = [
      _row(prediction, image, i, label, *outline(by_column == label), area)
      for i, (label, area) in enumerate(prediction.semantic_areas(), 1)
    ]
  return content


def panoptic_json(
  prediction: 'Prediction', image: Mapping[str, Any], panoptic_file: str
) -> dict[str, Any]:
  """COCO's panoptic form alone; arguments as for `prediction_json`."""
  annotation = _panoptic(prediction, image, panoptic_file)
  return {**_head(prediction, image), 'annotations': [annotation]}


def _head(prediction: 'Prediction', image: Mapping[str, Any]) -> dict[str, Any]:
  height, width = (int(side) for side in prediction.size)
  rows = zip(
    prediction.category_numbers(),
    prediction.names,
    prediction.things,
    prediction.class_colors().tolist(),
    strict=True,
  )
  return {
    'images': [{**image, 'height': height, 'width': width}],
    'categories': [
      {
        'id': number,
        'name': name,
        'supercategory': 'thing' if thing else 'stuff',
        'isthing': int(thing),
        'color': color,
      }
      for number, name, thing, color in rows
    ],
  }


def _panoptic(
  prediction: 'Prediction', image: Mapping[str, Any], file_name: str
) -> dict[str, Any]:
  by_column = np.asfortranarray(prediction.panoptic)
  rows = [
    _row(
      prediction,
      image,
      s.id,
      s.class_index,
      *outline(by_column == s.id),
      s.area,
      s.score,
    )
    for s in prediction.segments
  ]
  return {
    'image_id': image['id'],
    'file_name': file_name,
    'segments_info': rows,
    # Not COCO's: pycocotools reads no annotation without them.
    'id': image['id'],
    'category_id': None,
  }


def _row(
  prediction: 'Prediction', image, number, label, rle, box, area, score=None
) -> dict[str, Any]:
  left, top, right, bottom = box
  # All digits of a float32: of many detections with small scores the order counts.
  scored = {} if score is None else {'score': float(f'{score:.9g}')}
  return {
    'id': number,
    'image_id': image['id'],
    'category_id': prediction.category_numbers()[label],
    'category_name': prediction.names[label],
    'isthing': int(prediction.things[label]),
    **scored,
    'area': int(area),
    'bbox': [left, top, right - left, bottom - top],
    'iscrowd': 0,
    'segmentation': rle,
  }
