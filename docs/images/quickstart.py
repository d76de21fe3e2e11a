"""Makes `quickstart.jpg`: a scene of the generated world beside its result.

python docs/images/quickstart.py [--out FILE]
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

import maskclip_jax

HERE = pathlib.Path(__file__).parent
SCENE = HERE.parents[1] / 'maskclip_jax' / 'miniature' / 'scenes' / 'scene_4.jpg'
# Pixels: the height, and between the pictures.
HEIGHT, GAP = 640, 16


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, default=HERE / 'quickstart.jpg')
  out = parser.parse_args().out
  prediction = maskclip_jax.load('masqclip_miniature_192')(SCENE, 'miniature-116')
  pictures = [
    picture.resize((HEIGHT * picture.width // picture.height, HEIGHT), Image.LANCZOS)
    for picture in (
      Image.open(SCENE),
      Image.fromarray(np.asarray(prediction.overlay())),
    )
  ]
  width = sum(picture.width for picture in pictures) + GAP
  joined = Image.new('RGB', (width, HEIGHT), 'white')
  joined.paste(pictures[0], (0, 0))
  joined.paste(pictures[1], (pictures[0].width + GAP, 0))
  joined.save(out, quality=88)


if __name__ == '__main__':
  main()
