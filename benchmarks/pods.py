"""Does every stage fit a slice of TPUs? Compiles the real steps, without a TPU.

    pip install libtpu==0.0.42.1
    python benchmarks/pods.py [v5e:16x16 v4:4x4x8 ...]

The papers' sizes: photos of 1024 x 1024, ResNet-50, CLIP ViT-L/14@336, bfloat16, one
photo per chip. Writes benchmarks/results/pods.json after every stage and prints a table
at the end. A stage takes about two minutes on two cores.
"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent
RESULTS = ROOT / 'results' / 'pods.json'
TOPOLOGIES = ['v5e:16x16', 'v4:4x4x8']
STAGES = {
  'teacher': 'configs/masqclip.py:stage=teacher',
  'student': 'configs/masqclip.py:stage=student',
  'MasQ-tuning': 'configs/masqclip.py:stage=masq',
  'MaskCLIP': 'configs/maskclip.py:stage=rma',
}


def compiled(config: str, topology: str) -> dict:
  """The report of one stage on one slice."""
  chips = math.prod(int(side) for side in topology.partition(':')[2].split('x'))
  with tempfile.TemporaryDirectory() as directory:
    report = pathlib.Path(directory) / 'report.json'
    subprocess.run(
      [
        *(sys.executable, '-m', 'maskclip_jax', 'train', '--compile_only'),
        *('--config', config, '--topology', topology, '--json', str(report)),
        f'--config.data.batch_size={chips}',
      ],
      check=True,
      cwd=ROOT.parent,
    )
    return json.loads(report.read_text())


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
    lines.append(
      f'| {stage} | {topology} | {report["batch"]} | {report["memory"] / 2**30:.2f} | '
      f'{report["capacity"] / 2**30:.0f} | {report["flops"] / 1e12:.2f} | {traffic} |'
    )
  return '\n'.join(lines)


def main() -> None:
  results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
  for topology in sys.argv[1:] or TOPOLOGIES:
    for stage, config in STAGES.items():
      results[f'{stage} on {topology}'] = compiled(config, topology)
      RESULTS.parent.mkdir(exist_ok=True)
      RESULTS.write_text(json.dumps(results, indent=2) + '\n')
  print(table(results))


if __name__ == '__main__':
  main()
