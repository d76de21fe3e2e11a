"""What reports of all kinds are made of: a page that needs no other file, tables and
pictures. Charts are in `charts.py`."""

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c2430;background:#fff;margin:0}
main{max-width:980px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:34px 0 6px}
p{margin:6px 0 12px;max-width:46em}.lead{font-size:18px;background:#f1f5fa;
border-left:4px solid #3b6fb6;padding:10px 14px}
.faint{color:#5d6875}svg{width:100%;max-width:760px;display:block;font-family:inherit}
svg text{fill:#1c2430}svg text.on{fill:#fff}.grid{stroke:#d9dfe6;fill:none}
.ideal{stroke:#5d6875;stroke-dasharray:5 4;fill:none}
table{border-collapse:collapse;font-size:14px}th,td{padding:3px 12px 3px 0;
text-align:left;border-bottom:1px solid #e4e8ee}td.n,th.n{text-align:right}
.pair,.three{display:grid;grid-template-columns:1fr 1fr;gap:10px;margin:4px 0 18px}
.three{grid-template-columns:1fr 1fr 1fr}
.pair img,.three img{width:100%;border:1px solid #d9dfe6}figure{margin:0}
figcaption{font-size:13px;color:#5d6875}
@media(max-width:700px){.pair,.three{grid-template-columns:1fr}}
"""


def page(title: str, parts: Sequence[str]) -> str:
  """A page of HTML.

  Args:
    title: of its tab.
    parts: HTML, in order.
  """
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width">'
    f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head>'
    f'<body><main>{"".join(parts)}</main></body></html>\n'
  )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
  """A table; the first columns are text, the others numbers."""

  def line(cells, tag):
    return ''.join(
      f'<{tag}{"" if i < texts else " class=n"}>{html.escape(cell)}</{tag}>'
      for i, cell in enumerate(cells)
    )

  body = ''.join(f'<tr>{line(row, "td")}</tr>' for row in rows)
  return f'<table><tr>{line(heads, "th")}</tr>{body}</table>'


def figure(caption: str, picture: UInt8[np.ndarray, 'h w 3'], width: int) -> str:
  """A picture and what it shows.

  Args:
    caption: text below it.
    picture: RGB.
    width: in pixels; the picture is made so wide.
  """
  size = width, max(1, round(picture.shape[0] * width / picture.shape[1]))
  picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
  quality = [cv2.IMWRITE_JPEG_QUALITY, 82]
  encoded = cv2.imencode('.jpg', picture[..., ::-1], quality)[1]
  url = 'data:image/jpeg;base64,' + base64.b64encode(encoded.tobytes()).decode()
  text = html.escape(caption)
  return (
    f'<figure><img alt="{text}" src="{url}"><figcaption>{text}</figcaption></figure>'
  )
