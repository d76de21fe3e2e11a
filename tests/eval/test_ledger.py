"""Results on disk, side by side, and beside the papers' numbers."""

import io
import json
import math

import ade_run
import pytest
import rich.console

from maskclip_jax.eval import ledger, request
from maskclip_jax.eval.compare import comparison
from maskclip_jax.eval.protocols import PROTOCOLS
from maskclip_jax.eval.published import PUBLISHED, published
from maskclip_jax.eval.request import Request, run_evaluations


def run(tmp_path, evals='ade150', name='toy', limit=1, **changes):
  """Evaluates the small model; returns the entries and what was shown."""
  place = {'data_dir': ade_run.data_dir(), 'batch_size': 8, 'limit': limit}
  wanted = Request(evals, tmp_path, **place, **changes)
  console = rich.console.Console(file=io.StringIO(), width=100)
  subject = ledger.Subject(name)
  entries = run_evaluations(ade_run.segmenter(), subject, wanted, console)
  return entries, console.file.getvalue()


@pytest.fixture(scope='module')
def semantic(tmp_path_factory):
  folder = tmp_path_factory.mktemp('semantic')
  return (folder, *run(folder, 'ade150_semantic', diagnose=True))


def test_results_are_written_and_shown(semantic):
  folder, entries, shown = semantic
  found = ledger.read(folder / 'ade150_semantic+1_of_2000')
  assert found == json.loads(json.dumps(entries[0]))
  assert 'ade150_semantic+1 of 2000/mIoU_gt_or_pred' in shown
  assert f'{found["numbers"]["ade150_semantic+1 of 2000/mIoU_gt"]:.2f}' in shown
  for key in ('versions', 'device', 'seconds', 'wall_seconds', 'finished', 'settings'):
    assert found[key], key
  assert found['model']['name'] == 'toy'
  assert found['examples'] == 1
  assert len(found['per_class']['class']) == len(found['per_class']['IoU']) == 150
  assert 'Words for things that are not in the photo' in ' '.join(shown.split())
  assert (folder / 'ade150_semantic+1_of_2000' / 'report.html').is_file()
  # Classes that never occur have no number, and JSON no NaN.
  assert None in found['per_class']['IoU']
  assert found['settings']['preprocessing']['short_edge'] == 512


@pytest.mark.slow
def test_ade150_by_its_own_sizes(tmp_path):
  (entry,), _ = run(tmp_path, limit=4)
  assert entry['settings']['preprocessing']['short_edge'] == 640
  assert entry['settings']['postprocessing']['object_threshold'] == 0.3
  assert entry['examples'] == 4
  # The model is right about all but one of the classes.
  name = 'ade150+4 of 2000'
  assert entry['numbers'][f'{name}/PQ'] > 60
  assert entry['numbers'][f'{name}/mIoU_gt'] > 60


def test_several_models_stand_side_by_side(semantic, tmp_path):
  folder, (entry,), _ = semantic
  other = json.loads(json.dumps(entry))
  other['model']['name'], other['model']['seed'] = 'random', 0
  other['settings']['preprocessing']['short_edge'] = 640
  metric = 'ade150_semantic+1 of 2000/mIoU_gt'
  other['numbers'][metric] = 12.5
  ledger.write(tmp_path, other)
  entries = [*ledger.read_all(folder), *ledger.read_all(tmp_path / 'results.json')]
  text = comparison(entries)
  row = next(line for line in text.splitlines() if f'{metric} ' in line)
  assert f'{entry["numbers"][metric]:.2f}' in row
  assert '12.50' in row
  assert 'differ in their preprocessing' in text
  assert 'is over 1 of 2,000 photos' in text
  assert 'random has random weights' in text
  assert 'pACC' not in text
  assert 'pACC' in comparison(entries, everything=True)


def test_a_ledger_has_one_model_of_a_name(semantic, tmp_path):
  folder, (entry,), _ = semantic
  (path,) = ledger.collect(folder, tmp_path)
  assert path == tmp_path / 'toy' / 'ade150_semantic+1_of_2000' / 'results.json'
  assert ledger.collect(folder, tmp_path) == [path]
  renamed = ledger.collect(folder, tmp_path, name='again')
  assert ledger.read(renamed[0])['model']['name'] == 'again'
  other = json.loads(json.dumps(entry))
  # A path is called by its last part.
  other['model'] |= {'name': '/somewhere/runs/toy', 'fingerprint': 'another'}
  ledger.write(tmp_path / 'other', other)
  with pytest.raises(ValueError, match="another model called 'toy'"):
    ledger.collect(tmp_path / 'other', tmp_path)
  assert ledger.read(path)['model']['fingerprint'] != 'another'
  ledger.write(tmp_path / 'other', {**other, 'evaluation': 'ade150'})
  with pytest.raises(ValueError, match="another model called 'toy'"):
    ledger.collect(tmp_path / 'other', tmp_path)


def test_papers_stand_beside_a_whole_protocol(semantic):
  _, (entry,), _ = semantic
  whole = json.loads(json.dumps(entry).replace('ade150_semantic+1 of 2000', 'ade150'))
  text = comparison([whole])
  row = next(line for line in text.splitlines() if 'ade150/mIoU_gt_or_pred' in line)
  assert '30.4* MasQCLIP' in row
  assert 'does not say which rule' in text
  # A run over some of the photos has no published counterpart.
  assert 'MasQCLIP' not in comparison([entry])


def test_names_with_brackets_are_not_markup(semantic):
  _, (entry,), _ = semantic
  one = json.loads(json.dumps(entry))
  metric = 'coco_instance48_17_generalised/AP50[novel]'
  one['headline'], one['numbers'] = [metric], {metric: 30.0}
  one['model']['name'] = 'run[3]'
  text = comparison([one])
  assert metric in text
  assert 'run[3]' in text
  assert '31.9 MasQCLIP' in text


def test_a_number_keeps_its_name_whole_on_a_narrow_terminal(semantic):
  _, (entry,), _ = semantic
  one = json.loads(json.dumps(entry))
  name = 'miniature+4 of 250/mIoU_gt[base_things]'
  one['model']['name'] = 'clip_baseline_miniature'
  one['numbers'][name], one['headline'] = 0.5, [name]
  assert name in comparison([one], width=80)


def test_published_numbers_are_of_protocols_that_exist():
  for one in PUBLISHED:
    protocol, _, metric = one.metric.partition('/')
    headline = PROTOCOLS[protocol].headline
    assert metric.removesuffix('th').removesuffix('st') in (*headline, 'mIoU'), one
  # The paper's own check: base and novel make up all.
  values = {
    p.metric: p.value for p in PUBLISHED if p.method == 'MasQCLIP (Mask2Former)'
  }
  base, novel, both = (
    values[f'coco_instance48_17_generalised/AP50{group}']
    for group in ('[base]', '[novel]', '')
  )
  assert math.isclose((48 * base + 17 * novel) / 65, both, abs_tol=0.05)


def test_a_model_finds_its_own_published_numbers():
  found = published('ade150/PQ', 'masqclip_r50_vit_l14_336')
  assert [p.value for p in found] == [23.3]
  assert [p.value for p in published('ade150/PQ')] == [23.3, 15.1, 10.7]
  assert published('ade150+flip/PQ') == []


def test_mistakes_are_refused_before_the_first_photo(tmp_path):
  for wanted, message in (
    ({'evals': 'ade15'}, "did you mean 'ade150'"),
    ({'evals': 'ade150', 'flip': True}, 'need a semantic task alone'),
    ({'evals': 'ade150_semantic', 'flip': True, 'diagnose': True}, 'without flipping'),
    ({'evals': 'ade150', 'scales': 'big'}, 'scales must be numbers'),
    ({'evals': 'ade150', 'scales': '-1'}, 'scales must be positive'),
    ({'evals': 'ade150', 'tasks': 'sleeping'}, 'sleeping'),
    ({'evals': 'ade150', 'vocabulary': 'cat; dog'}, '2 classes and ade150'),
  ):
    with pytest.raises(ValueError, match=message):
      run(tmp_path, **wanted)
  with pytest.raises(FileNotFoundError, match='voc2012 is not built'):
    run(tmp_path, 'ade150,voc20')
  assert not list(tmp_path.iterdir())


def test_a_command_killed_in_its_diagnosis_does_not_evaluate_again(
  semantic, tmp_path, monkeypatch
):
  def killed(*args, **kwargs):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(request, 'diagnose', killed)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path, 'ade150_semantic', diagnose=True)
  folder = tmp_path / 'ade150_semantic+1_of_2000'
  names = sorted(path.name for path in folder.iterdir())
  assert names == ['results.json', 'state-0-of-1.npz']
  judged, evaluate = [], request.evaluate

  def counted(*args, on_progress, **kwargs):
    return evaluate(
      *args, on_progress=lambda done, total: judged.append(done), **kwargs
    )

  monkeypatch.setattr(request, 'evaluate', counted)
  entries, _ = run(tmp_path, 'ade150_semantic', diagnose=True)
  assert judged == []
  assert entries[0]['numbers'] == semantic[1][0]['numbers']
  names = sorted(path.name for path in folder.iterdir())
  assert names == ['report.html', 'results.json']


def test_files_that_are_no_results_are_errors(tmp_path):
  with pytest.raises(FileNotFoundError, match='evaluate first'):
    ledger.read_all(tmp_path)
  path = tmp_path / 'results.json'
  with pytest.raises(FileNotFoundError, match='evaluate first'):
    ledger.read_all(path)
  path.write_text('{')
  with pytest.raises(ValueError, match='not valid JSON'):
    ledger.read_all(path)
  path.write_text('{"format": 9}')
  with pytest.raises(ValueError, match='not a result of an evaluation'):
    ledger.read_all(path)
