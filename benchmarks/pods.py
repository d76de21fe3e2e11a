"""Does every stage fit a slice of TPUs? Compiles the real steps, without a TPU.

    pip install libtpu
    python benchmarks/pods.py [v5e:16x16 v4:4x4x8 ...]     # stages not recorded yet
    python benchmarks/pods.py --again v5e:16x16            # all of a slice anew

The papers' sizes: photos of 1024 x 1024, ResNet-50, CLIP ViT-L/14@336, bfloat16, one
photo per chip; of OVSeg 640 x 640 with Swin-B, and regions of 224 x 224 with ViT-L/14;
of SegCLIP, ViT-B/16 at 224 x 224, float32, 768 photos in all; of FC-CLIP, ConvNeXt-L.
Writes benchmarks/results/pods.json and benchmarks/pods.md after every stage, which
takes some minutes on two cores. Fails where a step does not fit.
"""

import argparse
import importlib.metadata
import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent
RESULTS, TABLE = ROOT / 'results' / 'pods.json', ROOT / 'pods.md'
TOPOLOGIES = ['v5e:16x16', 'v4:4x4x8']
STAGES = {
  'teacher': 'masqclip:stage=teacher',
  'student': 'masqclip:stage=student',
  'MasQ-tuning': 'masqclip:stage=masq',
  'MaskCLIP': 'maskclip:stage=rma',
  'SegCLIP': 'segclip:stage=pretrain',
  'OVSeg: proposals': 'ovseg:stage=proposals,profile=paper',
  'OVSeg: tuned CLIP': 'ovseg:stage=pairs,profile=paper',
  'OVSeg: mask prompts': 'ovseg:stage=prompts,profile=paper',
  'FC-CLIP': 'fcclip:stage=train',
}
# Photos of a step, where it is not one per chip.
BATCHES = {'SegCLIP': 768}


HEAD = """# Training steps on TPU slices

`python benchmarks/pods.py` compiles the real step of every stage for a slice, with the
compiler that the slice would run, and no TPU ({versions}). Photos of
1024 x 1024, ResNet-50, CLIP ViT-L/14@336, bfloat16, one photo per chip, every chip with
the whole model (mesh `data`); OVSeg: 640 x 640, Swin-B, then regions of 224 x 224,
ViT-L/14; SegCLIP: 224 x 224, ViT-B/16, float32, 768 photos in all, the published batch;
FC-CLIP: ConvNeXt-L.
Memory is per chip: state, batch and temporaries. A collective in a loop counts once.

"""


def chips_of(topology: str) -> int:
  """How many chips a slice has."""
  return math.prod(int(side) for side in topology.partition(':')[2].split('x'))


def compiled(stage: str, topology: str) -> dict:
  """The report of one stage on one slice."""
  config, batch = STAGES[stage], BATCHES.get(stage, chips_of(topology))
  with tempfile.TemporaryDirectory() as directory:
    report = pathlib.Path(directory) / 'report.json'
    done = subprocess.run(
      [
        *(sys.executable, '-m', 'maskclip_jax', 'train', '--compile_only'),
        *('--config', config, '--topology', topology, '--json', str(report)),
        f'--config.data.batch_size={batch}',
      ],
      cwd=ROOT.parent,
    )
    # A step that does not fit is an answer too.
    if not report.exists():
      raise SystemExit(f'{config} for {topology} failed with {done.returncode}')
    versions = {name: importlib.metadata.version(name) for name in ('jax', 'libtpu')}
    return json.loads(report.read_text()) | {'versions': versions}


def table(results: dict[str, dict]) -> str:
  """Markdown."""
  lines = [
    '| stage | slice | chips | GiB a chip | of | TFLOP a chip and step | collectives |',
    '|---|---|---|---|---|---|---|',
  ]
  for name, report in results.items():
    stage, topology = name.split(' on ')
    traffic = ', '.join(
      f'{count} {kind} ({size / 1e6:.0f} MB)'
      for kind, (count, size) in sorted(report['collectives'].items())
    )
    memory = f'{report["memory"] / 2**30:.2f}'
    if not report['fits']:
      memory += ' (does not fit)'
    lines.append(
      f'| {stage} | {topology} | {chips_of(topology)} | {memory} | '
      f'{report["capacity"] / 2**30:.0f} | {report["flops"] / 1e12:.2f} | {traffic} |'
    )
  return '\n'.join(lines) + '\n'


def record(results: dict[str, dict]) -> None:
  """Writes both files."""
  seen = {
    f'jax {report["versions"]["jax"]}, libtpu {report["versions"]["libtpu"]}'
    for report in results.values()
  }
  RESULTS.parent.mkdir(exist_ok=True)
  RESULTS.write_text(json.dumps(results, indent=2) + '\n')
  TABLE.write_text(HEAD.format(versions='; '.join(sorted(seen))) + table(results))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('topologies', nargs='*', default=TOPOLOGIES)
  parser.add_argument('--again', action='store_true', help='recorded ones too')
  options = parser.parse_args()
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  for topology in options.topologies:
    for stage in STAGES:
      name = f'{stage} on {topology}'
      if name in results and not options.again:
        continue
      results[name] = compiled(stage, topology)
      record(results)
  record(results)
  print(table(results))
  raise SystemExit(not all(report['fits'] for report in results.values()))


if __name__ == '__main__':
  main()
