// Regions of a result: read from the server's JSON, laid on a map of numbers, drawn.

// Run lengths of COCO's compressed text: five bits a letter, and from the third run on
// the difference to the run before the last.
export function runs(text) {
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    for (let part = 0, more = true; more; part++) {
      const bits = text.charCodeAt(at++) - 48;
      value |= (bits & 0x1f) << (5 * part);
      more = (bits & 0x20) !== 0;
      if (!more && bits & 0x10) value |= -1 << (5 * (part + 1));
    }
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

// The regions of a prediction, in the order in which they cover each other.
export function regions(json, task) {
  const colors = new Map(json.categories.map((c) => [c.id, c.color]));
  let rows = json.semantic;
  if (task === 'panoptic') rows = json.annotations[0].segments_info;
  if (task === 'instance') rows = json.annotations;
  const numbers = new Map();
  return rows.map((row) => {
    const number = numbers.get(row.category_id) ?? 0;
    numbers.set(row.category_id, number + 1);
    return {
      name: row.category_name,
      number: row.isthing && task !== 'semantic' ? number + 1 : 0,
      score: row.score,
      area: row.area,
      color: shade(colors.get(row.category_id), task === 'semantic' ? 0 : number),
      runs: runs(row.segmentation.counts),
    };
  });
}

// Objects of one class are told apart by how light they are.
function shade(color, number) {
  const factor = [1, 0.72, 1.25, 0.55, 0.88][number % 5];
  return color.map((v) => Math.min(255, Math.round(v * factor)));
}

// Which region each pixel of a view belongs to, counted from 1; 0 where there is none.
// The first region lies on top.
export function numberMap(found, size, view) {
  const whole = new Uint16Array(size.width * size.height);
  for (let i = found.length - 1; i >= 0; i--) {
    let at = 0;
    found[i].runs.forEach((length, index) => {
      if (index % 2) whole.fill(i + 1, at, at + length);
      at += length;
    });
  }
  const map = new Uint16Array(view.width * view.height);
  for (let y = 0; y < view.height; y++) {
    const row = Math.floor(((y + 0.5) * size.height) / view.height);
    for (let x = 0; x < view.width; x++) {
      // COCO counts down the columns.
      const column = Math.floor(((x + 0.5) * size.width) / view.width);
      map[y * view.width + x] = whole[column * size.height + row];
    }
  }
  return map;
}

// Tints and borders over a photo. `lit` is the number of the region that stands out.
export function draw(context, photo, map, found, lit) {
  const { width, height } = context.canvas;
  context.fillStyle = '#777';
  context.fillRect(0, 0, width, height);
  if (photo) context.drawImage(photo, 0, 0, width, height);
  if (!map) return;
  const image = context.getImageData(0, 0, width, height);
  const pixels = image.data;
  const reach = Math.max(1, Math.round(Math.max(width, height) / 700));
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const number = map[at];
      const border =
        map[at] !== map[y * width + Math.min(x + reach, width - 1)] ||
        map[at] !== map[Math.min(y + reach, height - 1) * width + x];
      let tint = number ? 0.45 : 0;
      let color = number ? found[number - 1].color : [0, 0, 0];
      if (lit) tint = number === lit ? 0.35 : 0.7;
      if (lit && number !== lit) color = [40, 42, 48];
      if (border) [tint, color] = [0.75, [255, 255, 255]];
      for (let c = 0; c < 3; c++) {
        pixels[4 * at + c] += tint * (color[c] - pixels[4 * at + c]);
      }
    }
  }
  context.putImageData(image, 0, 0);
}
