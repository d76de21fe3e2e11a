"""Results as a client gets them: one file, or several in a zip."""

import io
import urllib.parse
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from maskclip_jax.deploy.server.request_form import MEDIA, Format, Upload
from maskclip_jax.results import files as result_files
from maskclip_jax.results.prediction import Prediction


def encode(
  prediction: Prediction, upload: Upload, form: Format, info: Mapping[str, Any]
) -> dict[str, bytes]:
  """The files of a photo's results, by name.

  Args:
    prediction: the results of one task; with the photo if it is to be drawn on.
    upload: names the files.
    form: which of them.
    info: COCO's `info`.
  """
  if form == 'ids':
    return prediction.id_pictures(upload.stem)
  if form == 'overlay':
    picture = result_files.png_bytes(prediction.overlay())
    return {f'{upload.stem}.overlay.png': picture}
  write = prediction.files if form == 'zip' else prediction.json_files
  return write(upload.stem, file_name=upload.name, info=info)


def respond(found: Sequence[Mapping[str, bytes]], form: Format) -> Response:
  """The answer of a request, from the files of each of its photos."""
  files = {name: content for one in found for name, content in one.items()}
  name, content = next(iter(files.items()))
  if form == 'zip':
    name, content = 'results.zip', _zipped(files)
  quoted = urllib.parse.quote(name)
  headers = {'Content-Disposition': f"inline; filename*=UTF-8''{quoted}"}
  return Response(content, media_type=MEDIA[form], headers=headers)


def _zipped(files: Mapping[str, bytes]) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    for name, content in files.items():
      # A PNG is compressed already.
      how = zipfile.ZIP_STORED if name.endswith('.png') else zipfile.ZIP_DEFLATED
      archive.writestr(name, content, how)
  return buffer.getvalue()
