"""How far a written program is from the model it was made of."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maskclip_jax import postprocess
from maskclip_jax.deploy.programs import Program
from maskclip_jax.postprocess import Geometry
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Images, TextBank

# A program as it was written: inputs -> outputs, by name.
Run = Callable[[dict[str, np.ndarray]], Mapping[str, Any]]


def local_platform() -> str:
  """What programs run on here, by XLA's name."""
  backend = jax.default_backend()
  return 'cuda' if backend == 'gpu' else backend


def made_up_photo(height: int, width: int) -> UInt8[np.ndarray, 'h w 3']:
  """Smooth colours, so that masks have shapes."""
  coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(image)


def parity(
  segmenter: Segmenter, bank: TextBank, program: Program, run: Run
) -> dict[str, Any]:
  """The largest differences on a made-up photo that leaves room on its canvas.

  Args:
    segmenter: the model.
    bank: the words of the program's example.
    program: from `photo_program`.
    run: the same as it was written.

  Returns:
    The platform, the photo's size, and by output the largest difference; of ids the
    number of pixels that differ.
  """
  batch, height, width, _ = program.inputs['pixels'].shape
  photo = made_up_photo(height * 3 // 4, width * 3 // 4)
  images = Images.from_arrays([photo] * batch, (height, width))
  hw = np.asarray(images.image_hw)
  inputs = {'pixels': np.asarray(images.pixels), 'image_hw': hw, 'result_hw': hw}
  found = {name: np.asarray(a) for name, a in run(program.inputs | inputs).items()}
  expected = _answer(segmenter, bank, images)
  differ = {
    name: float(np.abs(found[name] - expected[name]).max())
    for name in ('mask_logits', 'class_probabilities')
  }
  for name in {'semantic', 'panoptic'} & set(found):
    ids = found[name][:, : photo.shape[0], : photo.shape[1]]
    differ[f'{name}_pixels'] = int((ids != expected[name]).sum())
  return {'platform': local_platform(), 'photo': list(photo.shape[:2]), **differ}


def _answer(
  segmenter: Segmenter, bank: TextBank, images: Images
) -> dict[str, np.ndarray]:
  """What the model itself says of a batch of equal photos, by name of the output."""
  forward, weights = segmenter.as_function()
  outputs = jax.jit(forward)(weights, images, bank, segmenter.preset.scores)
  objectness = None if outputs.objectness is None else outputs.objectness[0]
  scores = postprocess.class_probabilities(
    outputs.class_logits[0], bank.valid, bank.void, objectness
  )
  photo = np.asarray(images.image_hw[0])
  sizes = Geometry(outputs.mask_hw[0], images.padded_hw[0], photo, photo)
  results = postprocess.postprocess(
    outputs.mask_logits[0],
    scores,
    bank.thing,
    sizes,
    segmenter.preset.postprocessing,
    ('semantic', 'panoptic'),
  )
  return {
    'mask_logits': np.asarray(outputs.mask_logits),
    'class_probabilities': np.asarray(scores.probabilities),
    'semantic': results.semantic,
    'panoptic': results.panoptic,
  }
