"""Files and directories that are whole or not there."""

import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import pytest

from maskclip_jax import atomic


def names(directory):
  return sorted(path.name for path in directory.iterdir())


def test_a_file_and_its_directories_are_made(tmp_path):
  atomic.write(tmp_path / 'a' / 'b' / 'c.txt', 'ä')
  assert (tmp_path / 'a' / 'b' / 'c.txt').read_bytes() == 'ä'.encode()
  assert names(tmp_path / 'a' / 'b') == ['c.txt']
  atomic.write(tmp_path / 'a' / 'b' / 'c.txt', b'new')
  assert (tmp_path / 'a' / 'b' / 'c.txt').read_bytes() == b'new'


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
  (tmp_path / 'f').write_text('old')
  (tmp_path / 'd').mkdir()
  (tmp_path / 'd' / 'inside').write_text('old')

  def fill(form, path):
    with form(path) as part:
      (part / 'inside' if part.is_dir() else part).write_text('half')
      raise error

  places = (atomic.file, 'f'), (atomic.directory, 'd'), (atomic.directory, 'new/d')
  for form, place in places:
    with pytest.raises(error):
      fill(form, tmp_path / place)
  assert names(tmp_path) == ['d', 'f']
  assert (tmp_path / 'f').read_text() == 'old'
  assert (tmp_path / 'd' / 'inside').read_text() == 'old'


def test_a_directory_is_replaced_as_a_whole(tmp_path):
  for content in ('first', 'second'):
    with atomic.directory(tmp_path / 'd') as part:
      (part / content).touch()
      assert names(tmp_path / 'd') == ['first'] if content == 'second' else True
  assert names(tmp_path / 'd') == ['second']
  assert names(tmp_path) == ['d']


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
  """A limit on the size of files stands in for the disk."""
  (tmp_path / 'a').write_text('old')
  code = textwrap.dedent(f"""
    import pathlib, resource
    from maskclip_jax import atomic
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    where = pathlib.Path({str(tmp_path)!r})
    for write in (
      lambda: atomic.write(where / 'a', bytes(2000)),
      lambda: atomic.write(where / 'made' / 'b', bytes(2000)),
      lambda: atomic.write_together(where, {{'c': b'', 'a': b'', 'd': bytes(2000)}}),
    ):
      try:
        write()
      except OSError as error:
        print(error)
  """)
  run = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  reason = 'File too large; choose another place or make room, then run again'
  assert run.stdout.splitlines() == [
    f'cannot write {tmp_path / name}: {reason}' for name in ('a', 'made/b', 'd')
  ]
  assert names(tmp_path) == ['a']
  assert (tmp_path / 'a').read_text() == 'old'


def test_files_that_belong_together_appear_together(tmp_path):
  paths = atomic.write_together(tmp_path / 'out', {'x.json': b'1', 'x.png': b'2'})
  assert paths == [tmp_path / 'out' / 'x.json', tmp_path / 'out' / 'x.png']
  assert [path.read_bytes() for path in paths] == [b'1', b'2']
  (tmp_path / 'file').touch()
  with pytest.raises(atomic.WriteError, match=r'^cannot write .*x\.json: [^\n]+$'):
    atomic.write_together(tmp_path / 'file', {'x.json': b'1', 'x.png': b'2'})


def test_a_kill_leaves_the_old_file_whole(tmp_path):
  code = textwrap.dedent("""
    import os, signal, sys
    from maskclip_jax import atomic
    with atomic.file(sys.argv[1]) as part:
      part.write_text('half')
      os.kill(os.getpid(), signal.SIGKILL)
  """)
  (tmp_path / 'f').write_text('old')
  subprocess.run([sys.executable, '-c', code, tmp_path / 'f'], check=False)
  assert (tmp_path / 'f').read_text() == 'old'


def test_threads_write_one_file_at_once(tmp_path):
  def write(content):
    for _ in range(50):
      atomic.write(tmp_path / 'f', content)

  contents = [bytes([i]) * 10_000 for i in range(4)]
  threads = [threading.Thread(target=write, args=(c,)) for c in contents]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (tmp_path / 'f').read_bytes() in contents
  assert names(tmp_path) == ['f']


def test_a_place_is_checked_before_anything_is_made(tmp_path):
  atomic.check_place(tmp_path / 'a' / 'b')
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').touch()
  with pytest.raises(atomic.WriteError, match='file is a file'):
    atomic.check_place(tmp_path / 'file' / 'b')


@pytest.mark.skipif(not pathlib.Path('/proc/self').exists(), reason='needs /proc')
def test_the_reason_keeps_its_number():
  with pytest.raises(atomic.WriteError) as caught:
    atomic.write('/proc/deep/file', b'')
  assert os.strerror(caught.value.errno) in str(caught.value)
