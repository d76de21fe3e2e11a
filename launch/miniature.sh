#!/usr/bin/env bash
# The miniature, from nothing: makes the generated world, trains a CLIP and both papers'
# systems on it, judges each on known and new words, in known and new styles.
#   launch/miniature.sh                        all of it, in less than an hour on two cores
#   launch/miniature.sh --scale 1 --teacher_steps 7000 --until clip_baseline_close_ups
#                                              the crops of the package
#   launch/miniature.sh --systems masqclip [--out DIR ...]
#                                              the MasQCLIP of the package: the CLIP and
#                                              the proposals of its crops, shown larger
#                                              photos, and mosaics of small ones first
#   launch/miniature.sh --systems segclip [--out DIR ...]
#                                              SegCLIP in place of both papers' systems:
#                                              from captions and superpixels, no masks,
#                                              and with each of its losses left out
#   launch/miniature.sh --systems ovseg [--out DIR ...]
#                                              OVSeg in their place: proposals, pairs
#                                              mined from the scenes' captions, prompts
#                                              only, a tuned CLIP, and both
#   launch/miniature.sh --systems fcclip [--out DIR ...]
#                                              FC-CLIP in their place: a convolutional
#                                              CLIP from captions, and masks and words
#                                              on it
#   launch/miniature.sh --split far [--clips DIR --data DIR ...]
#                                              both papers' systems where things of some
#                                              colours and a pattern are not annotated:
#                                              adds as long again, less the world and
#                                              its CLIPs, where another run made them
#   launch/miniature.sh --seed 1 --out DIR [--clips DIR] [--data DIR] [--dry_run]
# --scale trains every stage that many times as long as what the tables show, 0.4 by
# default; --teacher_steps is for the first proposals alone.
# --coat 0.5 judges every row once more, with OVRCOAT's rule of that weight (not SegCLIP,
# which has no "no object").
# --clips takes the CLIPs of another run of this script, --data its world. SegCLIP starts
# from the CLIP of close-ups that comes with the package, unless --clips says otherwise.
# Stopped anywhere, the same command goes on; what is done is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
. launch/commands.sh
parse_flags '' 'seed scale teacher_steps out clips data until systems split coat' "$@"
case ${flags[systems]:-both} in
  both | masqclip | segclip | ovseg | fcclip) ;;
  *)
    echo "$0: --systems is masqclip, segclip, ovseg or fcclip, not ${flags[systems]}" >&2
    exit 2
    ;;
esac
split=${flags[split]:-near}
case $split in
  near) protocol=miniature ;;
  far) protocol=miniature_far ;;
  *) echo "$0: --split is near or far, not $split" >&2; exit 2 ;;
esac
if [ "$split" = far ] && [ "${flags[systems]:-}" = masqclip ]; then
  echo "$0: --systems masqclip has proposals that learned from far things: leave out" \
    '--split far' >&2
  exit 2
fi
$dry_run || prepare

seed=${flags[seed]:-0} scale=${flags[scale]:-0.4} out=${flags[out]:-out/$protocol}
coat=${flags[coat]:-}
crops=maskclip_jax/miniature/clip_baseline
clips=${flags[clips]:-$out} data=${flags[data]:-out/miniature/data}
if [ "${flags[systems]:-}" = segclip ]; then
  data=${flags[data]:-out/miniature/data_superpixels}
fi

# trained NAME STAGE [FLAGS OF TRAIN]: a stage of configs/miniature.py.
trained() {
  local name=$1 stage=$2
  shift 2
  run python -m maskclip_jax train --workdir "$out/$name" \
    --config "miniature:stage=$stage,split=$split,seed=$seed,scale=$scale" \
    "--config.data.data_dir=$data" "$@"
}

# clip STAGE [FLAGS OF TRAIN]: a CLIP, unless --clips brings it.
clip() {
  [ -n "${flags[clips]:-}" ] || trained "$1" "$@"
}

# joined NAME PRESET CLIP: a system without training of its own.
joined() {
  [ -e "$out/$1/config.json" ] || run python -m maskclip_jax convert "$out/teacher" \
    --clip "$clips/$3" --preset "$2" --to "$out/$1"
}

# larger NAME MODEL SIDE: a model whose CLIP is shown photos of another side.
larger() {
  [ -e "$out/$1/config.json" ] ||
    run python -m maskclip_jax convert "$2" --image_size "$3" --to "$out/$1"
}

# mosaic NAME BEFORE SIDE PHOTOS [FLAGS OF TRAIN]: a CLIP that sees PHOTOS x PHOTOS pairs
# beside each other.
mosaic() {
  local name=$1 before=$2 side=$3 photos=$4
  shift 4
  trained "$name" "clip_mosaic,side=$side,mosaic=$photos" \
    "--config.start.clip.source=$out/$before" "$@"
}

# judge NAME ENDING [FLAGS OF EVAL]: both tests; results.json tells that one was done.
judge() {
  local name=$1 ending=$2
  shift 2
  [ -e "$out/judged/$name/${protocol}_shifted$ending/results.json" ] ||
    run python -m maskclip_jax eval --model "$out/$name" --data_dir "$data" \
      --evals "$protocol,${protocol}_shifted" --out "$out/judged/$name" "$@"
}

# judged NAME: a row of the tables, with --coat two. --until NAME ends here.
judged() {
  judge "$1" ''
  if [ -n "$coat" ] && [ "${flags[systems]:-}" != segclip ]; then
    judge "$1" "+scores=coat=$coat" --scores "coat=$coat"
  fi
  [ "$1" != "${flags[until]:-}" ] || exit 0
}

# tables: what was judged, measured further and printed.
tables() {
  run python benchmarks/miniature.py --split "$split" --data_dir "$data" "$out"
}

from() {
  echo "--config.start.proposals.source=$out/$1" \
    "--config.start.clip.source=$clips/clip_photos"
}

# of_segclip NAME [FLAGS OF TRAIN]: SegCLIP, trained and judged.
of_segclip() {
  local name=$1
  shift
  trained "$name" segclip "${start[@]}" "$@"
  judged "$name"
}

# of_ovseg NAME STAGE BEFORE: a stage that shows mined regions to CLIP, judged.
of_ovseg() {
  trained "$1" "$2" "--config.start.model.source=$out/$3" \
    "--config.data.data_dir=$out/mined"
  judged "$1"
}

if [ "${flags[systems]:-}" = segclip ]; then
  run python -m maskclip_jax data build miniature --data_dir "$data" \
    --superpixels 224,0.9,60
  if [ -n "${flags[clips]:-}" ]; then
    start=("--config.start.clip.source=$clips/clip_close_ups")
  else
    start=("--config.start.clip.source=$crops" --config.start.clip.source_prefix=clip)
  fi
  of_segclip segclip
  for loss in contrastive superpixel reconstruction; do
    of_segclip "segclip_no_$loss" "--config.settings.$loss=0.0"
  done
  tables
  exit
fi

run python -m maskclip_jax data build miniature --data_dir "$data"

if [ "${flags[systems]:-}" = masqclip ]; then
  larger larger "$crops" 144
  mosaic clip_mosaic_2 larger 144 2 --config.start.clip.source_prefix=clip
  mosaic clip_mosaic_3 clip_mosaic_2 144 3
  larger clip_mosaic_3_192 "$out/clip_mosaic_3" 192
  mosaic clip_mosaic_192 clip_mosaic_3_192 192 3 --config.data.batch_size=72
  scale=$(awk "BEGIN { print 2.5 * $scale }") \
    mosaic clip_mosaic_192_longer clip_mosaic_192 192 3 --config.data.batch_size=72
  trained masqclip_192 masq,side=192 "--config.start.proposals.source=$crops" \
    --config.start.proposals.source_prefix=proposals \
    "--config.start.clip.source=$out/clip_mosaic_192_longer"
  judged masqclip_192
  tables
  exit
fi

if [ "${flags[systems]:-}" = fcclip ]; then
  clip convnext
  clip convnext_photos "--config.start.clip.source=$out/convnext"
  trained fcclip fcclip "--config.start.clip.source=$clips/convnext_photos"
  judged fcclip
  tables
  exit
fi

clip clip
clip clip_anywhere "--config.start.clip.source=$out/clip"

if [ "${flags[systems]:-}" = ovseg ]; then
  clip clip_photos "--config.start.clip.source=$out/clip_anywhere"
  trained ovseg_proposals ovseg_proposals \
    "--config.start.clip.source=$clips/clip_photos"
  judged ovseg_proposals
  run python -m maskclip_jax mine miniature/captions --data_dir "$data" \
    --model "$out/ovseg_proposals" --nouns miniature-116 --form name \
    --words clean --out "$out/mined"
  of_ovseg ovseg_prompts ovseg_prompts ovseg_proposals
  of_ovseg ovseg_pairs ovseg_pairs ovseg_proposals
  of_ovseg ovseg ovseg_prompts ovseg_pairs
  tables
  exit
fi

clip clip_close_ups "--config.start.clip.source=$out/clip_anywhere"
trained teacher teacher \
  ${flags[teacher_steps]:+"--config.total_steps=${flags[teacher_steps]}"}
joined clip_baseline_close_ups clip_baseline_miniature clip_close_ups
judged clip_baseline_close_ups

clip clip_photos "--config.start.clip.source=$out/clip_anywhere"
joined clip_baseline clip_baseline_miniature clip_photos
judged clip_baseline
joined maskclip_freeze maskclip_freeze_miniature clip_photos
judged maskclip_freeze
trained maskclip rma $(from teacher)
judged maskclip

trained masqclip_0 masq $(from teacher)
judged masqclip_0
trained student_1 student "--config.start.teacher.source=$out/teacher"
trained masqclip_1 masq $(from student_1)
judged masqclip_1
trained student_2 student "--config.start.teacher.source=$out/student_1"
trained masqclip_2 masq $(from student_2)
judged masqclip_2
trained longer longer "--config.start.teacher.source=$out/teacher"
trained masqclip_longer masq $(from longer)
judged masqclip_longer
trained masqclip_tune_all tune_all $(from teacher)
judged masqclip_tune_all
tables
