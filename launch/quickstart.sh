#!/usr/bin/env bash
# From a fresh clone to a segmented picture: installs the package, then segments scenes of
# a generated world by words, with a small model that comes with it.
#   launch/quickstart.sh
#   launch/quickstart.sh "star; something striped; stuff:water, sea"
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare

words=${1:-miniature-116}
out=out/quickstart
python -m maskclip_jax predict maskclip_jax/miniature/scenes --model masqclip_miniature_192 \
  --vocabulary "$words" --task panoptic --out "$out"
echo "Look at $out/*.overlay.png; what was found is in $out/*.json too."
echo "Try your own words: launch/quickstart.sh 'green star; disk, circle; stuff:sand'"
