"""TensorBoard event files, without TensorFlow.

A file is a row of records (length, checksum, bytes, checksum), each a small protocol
buffer: a time, a step, and a scalar or a picture by name. Format: TensorFlow's
`record_writer.h` and `event.proto`.
"""

import pathlib
import struct
import time
from collections.abc import Mapping

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _crc_table() -> tuple[int, ...]:
  """CRC-32C (Castagnoli), which `zlib` does not have."""
  table = []
  for value in range(256):
    for _ in range(8):
      value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    table.append(value)
  return tuple(table)


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
  """The checksum of some bytes."""
  value = 0xFFFFFFFF
  for byte in data:
    value = _CRC[(value ^ byte) & 0xFF] ^ (value >> 8)
  return value ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
  value = crc32c(data)
  rotated = (value >> 15 | value << 17) & 0xFFFFFFFF
  return struct.pack('<I', (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
  out = bytearray()
  while value > 0x7F:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*out, value])


def _field(number: int, kind: int, payload: bytes) -> bytes:
  if kind == _BYTES:
    payload = _varint(len(payload)) + payload
  return _varint(number << 3 | kind) + payload


def _event(step: int, summary: bytes = b'', version: bytes = b'') -> bytes:
  parts = [
    _field(1, _FIXED64, struct.pack('<d', time.time())),
    _field(2, _VARINT, _varint(step)),
  ]
  if version:
    parts.append(_field(3, _BYTES, version))
  if summary:
    parts.append(_field(5, _BYTES, summary))
  return b''.join(parts)


def _value(tag: str, content: bytes) -> bytes:
  return _field(1, _BYTES, _field(1, _BYTES, tag.encode()) + content)


class EventFile:
  """An event file in a directory; TensorBoard reads all files of a directory."""

  def __init__(self, directory: pathlib.Path):
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f'events.out.tfevents.{time.time_ns()}.maskclip_jax'
    self._file = path.open('wb')
    self._write(_event(0, version=b'brain.Event:2'))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Numbers of a step by name."""
    summary = b''.join(
      _value(tag, _field(2, _FIXED32, struct.pack('<f', value)))
      for tag, value in values.items()
    )
    self._write(_event(step, summary))

  def picture(self, step: int, tag: str, png: bytes, size: tuple[int, int]) -> None:
    """A PNG picture of (height, width)."""
    image = b''.join(
      [
        _field(1, _VARINT, _varint(size[0])),
        _field(2, _VARINT, _varint(size[1])),
        _field(3, _VARINT, _varint(3)),
        _field(4, _BYTES, png),
      ]
    )
    self._write(_event(step, _value(tag, _field(4, _BYTES, image))))

  def _write(self, data: bytes) -> None:
    length = struct.pack('<Q', len(data))
    self._file.write(length + _masked(length) + data + _masked(data))
    self._file.flush()

  def close(self) -> None:
    self._file.close()
