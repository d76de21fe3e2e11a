"""The notebook runs, and is stored as it was run."""

import pathlib

import pytest

nbclient = pytest.importorskip('nbclient', reason="needs pip install '.[docs]'")
nbformat = pytest.importorskip('nbformat', reason="needs pip install '.[docs]'")
pytest.importorskip('ipykernel', reason="needs pip install '.[docs]'")

TOUR = pathlib.Path(__file__).parents[1] / 'docs' / 'tour.ipynb'


def shown(notebook) -> list[list[str]]:
  """What the outputs of each cell of code are: text, or a kind of picture."""
  return [
    [
      'text' if output.output_type == 'stream' else sorted(output.data)[0]
      for output in cell.outputs
    ]
    for cell in notebook.cells
    if cell.cell_type == 'code'
  ]


def test_it_is_stored_as_it_was_run():
  stored = nbformat.read(TOUR, 4)
  nbformat.validate(stored)
  code = [cell for cell in stored.cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
  assert all(shown(stored))
  # A repository keeps every version of a picture.
  assert TOUR.stat().st_size < 600_000


@pytest.mark.slow
def test_it_runs(tmp_path):
  stored = nbformat.read(TOUR, 4)
  run = nbformat.read(TOUR, 4)
  client = nbclient.NotebookClient(
    run, timeout=600, resources={'metadata': {'path': tmp_path}}
  )
  client.execute()
  assert shown(run) == shown(stored)
  text = ''.join(
    output.text
    for cell in run.cells
    for output in cell.get('outputs', ())
    if output.output_type == 'stream' and output.name == 'stdout'
  )
  assert 'panoptic: 6 found' in text
  assert 'striped red disk' in text
