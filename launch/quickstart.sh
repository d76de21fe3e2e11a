#!/usr/bin/env bash
# From a fresh clone to a segmented photograph: installs the package, then segments a
# photo by the words given (or by those below).
#   launch/quickstart.sh
#   launch/quickstart.sh "spoon; cup, mug; stuff:table"
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare demo

words=${1:-cup; spoon; saucer, plate; stuff:wooden table}
photo=$(python -c 'import pathlib, skimage.data as d
print(pathlib.Path(d.__file__).parent / "coffee.png")')
out=out/quickstart

echo "No trained weights are distributed with this package yet: the model below has" \
  "RANDOM weights. It shows the whole path from photo and words to masks, not what a" \
  "trained model finds. README.md tells how to convert the official weights."
python -m maskclip_jax predict "$photo" --model masqclip_r50_vit_b16 \
  --random_weights 3 --object_threshold 0.2 --overlap_threshold 0 --vocabulary "$words" --task panoptic --out "$out"
echo "Look at $out/coffee.overlay.png"
