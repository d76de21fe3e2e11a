// The page: a photo and words go to /segment, and what comes back is drawn.

import { draw, numberMap, regions } from './masks.js';

const $ = (id) => document.getElementById(id);
const LONGEST_SIDE = 1600; // Of the view, in pixels.
const SMALLEST_SIDE = 700; // Smaller photos are enlarged.
const SUGGESTED = 8;
const PAUSE = 250; // Milliseconds after a threshold moved.
const LEAST_SCORE = 0.3; // Of instances that are shown at first.

const state = {
  model: null,
  words: [],
  file: null, // what is sent
  photo: null, // what is drawn; null where the browser cannot read it
  result: null, // {json, task, size, all}
  shown: [], // regions above the threshold
  map: null,
  lit: 0,
  running: null, // AbortController of the request under way
};

// What the server says.

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server does not answer. Is it still running?');
  }
  if (response.ok) return response;
  let text = `the server answered ${response.status}`;
  try {
    text = (await response.json()).error ?? text;
  } catch {
    // Not from this server, but from one in between.
  }
  throw new Error(text);
}

async function waitUntilReady() {
  for (;;) {
    const response = await fetch('ready').catch(() => null);
    if (response?.ok) break;
    say(response ? 'The server is still compiling…' : 'The server does not answer.', true);
    await new Promise((done) => setTimeout(done, 1500));
  }
  say('');
  refresh();
}

async function start() {
  state.model = await (await ask('model')).json();
  const { model, limits, vocabulary, vocabularies, words } = state.model;
  $('model').textContent = vocabulary ? `${model}, which knows ${vocabulary}` : model;
  document.title = `${model} – maskclip_jax`;
  if (limits) {
    $('limits').textContent = `This model ${limits}.`;
    $('limits').hidden = false;
  }
  $('words-section').hidden = Boolean(vocabulary);
  for (const [name, count] of Object.entries(vocabularies)) {
    $('vocabulary').add(new Option(`${name} (${count} classes)`, name));
  }
  // Somebody may have typed already.
  if (!$('words').value) {
    if (words in vocabularies) $('vocabulary').value = words;
    else $('words').value = words;
  }
  resetThresholds();
  refresh();
  await waitUntilReady();
  state.ready = true;
  refresh();
  state.words = await (await ask('suggestions')).json();
}

// The form.

const task = () => document.querySelector('[name=task]:checked').value;

function form() {
  const data = new FormData();
  data.append('image', state.file, nameOf(state.file));
  if ($('vocabulary').value) data.append('vocabulary', $('vocabulary').value);
  else if (!state.model.vocabulary) data.append('words', $('words').value);
  data.append('task', task());
  if (task() === 'panoptic') {
    data.append('object_threshold', $('score').value);
    data.append('overlap_threshold', $('overlap').value);
  }
  return data;
}

// The server takes names without folders and without signs of control.
function nameOf(file) {
  const name = (file.name ?? '').replace(/[^\p{L}\p{N}._ ()-]/gu, '_');
  return name.replace(/^\.+/, '').slice(-100) || 'photo.png';
}

function refresh() {
  const panoptic = task() === 'panoptic';
  $('thresholds').hidden = task() === 'semantic';
  $('overlap-row').hidden = !panoptic;
  $('go').disabled = !state.file || !state.ready;
  for (const name of ['score', 'overlap']) {
    $(`${name}-value`).textContent = Number($(name).value).toFixed(2);
  }
}

function resetThresholds() {
  const { object_threshold, overlap_threshold } = state.model;
  $('score').value = task() === 'instance' ? LEAST_SCORE : object_threshold;
  $('overlap').value = overlap_threshold;
}

async function segment() {
  if (!state.file || !state.ready) return;
  state.running?.abort();
  const running = (state.running = new AbortController());
  const asked = task();
  fail('');
  say('Segmenting…', true);
  try {
    const begun = performance.now();
    const response = await ask('segment', {
      method: 'POST',
      body: form(),
      headers: { Accept: 'application/json' },
      signal: running.signal,
    });
    const json = await response.json();
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    const { width, height } = json.images[0];
    state.result = { json, task: asked, size: { width, height }, all: regions(json, asked) };
    show();
    say(`${counted()}, ${seconds} s`);
    // On a phone the result lies below the form.
    if ($('view').getBoundingClientRect().top > innerHeight - 100) {
      $('result').scrollIntoView();
    }
  } catch (error) {
    if (error.name === 'AbortError') return;
    say('');
    fail(error.message);
  } finally {
    if (state.running === running) state.running = null;
  }
}

// The result.

function show() {
  const { json, task: made, size, all } = state.result;
  const least = made === 'instance' ? Number($('score').value) : 0;
  state.shown = all.filter((region) => (region.score ?? 1) >= least);
  fit(size);
  const canvas = $('view');
  state.map = numberMap(state.shown, size, canvas);
  light(0);
  list(size.width * size.height);
  const notes = [...(json.info.warnings ?? []), ...(json.info.notes ?? [])];
  $('notes').replaceChildren(...notes.map((text) => element('li', text)));
  $('notes').hidden = !notes.length;
  $('found').hidden = false;
}

function counted() {
  const count = state.shown.length;
  return `${count} ${count === 1 ? 'region' : 'regions'}`;
}

function fit({ width, height }) {
  const longest = Math.max(width, height);
  const scale = Math.min(1, LONGEST_SIDE / longest) * Math.max(1, SMALLEST_SIDE / longest);
  const canvas = $('view');
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.hidden = false;
  $('empty').hidden = true;
}

function light(number) {
  state.lit = number;
  paint();
  for (const button of $('regions').querySelectorAll('button')) {
    button.setAttribute('aria-pressed', String(Number(button.dataset.number) === number));
  }
}

function paint() {
  const masks = $('masks').checked ? state.map : null;
  const context = $('view').getContext('2d', { willReadFrequently: true });
  draw(context, state.photo, masks, state.shown, masks ? state.lit : 0);
}

const title = ({ name, number }, several) => (several && number ? `${name} ${number}` : name);
const share = (area, total) => `${((100 * area) / total).toFixed(1)}%`;

function describe(region, total) {
  const score = region.score === undefined ? [] : [region.score.toFixed(2)];
  return [...score, share(region.area, total)].join(' · ');
}

function severalOf(region) {
  return state.shown.filter(({ name }) => name === region.name).length > 1;
}

function list(total) {
  const items = state.shown.map((region, index) => {
    const button = element('button');
    const chip = element('canvas');
    [chip.width, chip.height] = [1, 1];
    const context = chip.getContext('2d');
    context.fillStyle = `rgb(${region.color.join(',')})`;
    context.fillRect(0, 0, 1, 1);
    button.type = 'button';
    button.dataset.number = index + 1;
    button.setAttribute('aria-pressed', 'false');
    button.append(
      chip,
      element('span', title(region, severalOf(region)), 'name'),
      element('span', describe(region, total), 'fact'),
    );
    const item = element('li');
    item.append(button);
    return item;
  });
  $('regions').replaceChildren(...items);
}

function element(tag, text = '', kind = '') {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  return made;
}

function numberAt(event) {
  const canvas = $('view');
  const box = canvas.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) * canvas.width) / box.width);
  const y = Math.floor(((event.clientY - box.top) * canvas.height) / box.height);
  const inside = x >= 0 && y >= 0 && x < canvas.width && y < canvas.height;
  return state.map && inside ? state.map[y * canvas.width + x] : 0;
}

function point(event) {
  const number = numberAt(event);
  if (number !== state.lit) light(number);
  $('tip').hidden = !number;
  if (!number) return;
  const region = state.shown[number - 1];
  const { width, height } = state.result.size;
  $('tip').textContent = `${title(region, severalOf(region))} · ${describe(region, width * height)} · ${region.area} px`;
  const stage = $('stage').getBoundingClientRect();
  const room = stage.width - $('tip').offsetWidth - 4;
  const left = Math.max(0, Math.min(event.clientX - stage.left + 14, room));
  const top = Math.max(0, event.clientY - stage.top - 38);
  $('tip').style.transform = `translate(${left}px, ${top}px)`;
}

async function download(format) {
  try {
    fail('');
    const name = nameOf(state.file).replace(/\.[^.]*$/, '') || 'photo';
    let blob;
    let ending = `${state.result.task}.png`;
    if (format === 'json') {
      blob = new Blob([JSON.stringify(state.result.json, null, 1)]);
      ending = 'json';
    } else {
      const response = await ask(`segment?format=${format}`, { method: 'POST', body: form() });
      blob = await response.blob();
      if (format === 'overlay') ending = 'overlay.png';
    }
    const link = element('a');
    link.href = URL.createObjectURL(blob);
    link.download = `${name}.${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    fail(error.message);
  }
}

function say(text, busy = false) {
  $('status').textContent = text;
  $('status').classList.toggle('busy', busy);
}

function fail(text) {
  // A sentence begins large, the name of a file as it is.
  $('error').textContent = text.replace(/^[a-z]+ /, (word) => word[0].toUpperCase() + word.slice(1));
  $('error').hidden = !text;
  if (text) $('error').scrollIntoView({ block: 'nearest' });
}

// Photos.

function bytes(count) {
  return count < 1e6 ? `${Math.ceil(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

async function take(file) {
  if (!file) return;
  state.running?.abort();
  fail('');
  say('');
  if (state.model && file.size > state.model.max_bytes) {
    const most = bytes(state.model.max_bytes);
    fail(`${file.name} has ${bytes(file.size)}, and the server takes ${most}.`);
    return;
  }
  Object.assign(state, { file, result: null, shown: [], map: null, lit: 0 });
  $('photo-name').textContent = `${file.name || 'photo'}, ${bytes(file.size)}`;
  $('found').hidden = true;
  $('tip').hidden = true;
  state.photo?.close();
  state.photo = await createImageBitmap(file).catch(() => null);
  if (state.photo) {
    fit(state.photo);
    paint();
  } else {
    $('view').hidden = true;
    $('empty').hidden = false;
    $('empty').textContent = 'The browser cannot show this photo; the server may read it.';
  }
  refresh();
}

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    // Phones take a photo where the address is not safe enough for a video.
    const input = element('input');
    Object.assign(input, { type: 'file', accept: 'image/*', capture: 'environment' });
    input.onchange = () => take(input.files[0]);
    input.click();
    return;
  }
  try {
    const wanted = { video: { facingMode: 'environment', width: { ideal: 1920 } } };
    $('video').srcObject = await navigator.mediaDevices.getUserMedia(wanted);
    $('camera-dialog').showModal();
  } catch {
    fail('There is no camera, or the browser may not use it.');
  }
}

function closeCamera() {
  $('video').srcObject?.getTracks().forEach((track) => track.stop());
  $('video').srcObject = null;
  $('camera-dialog').close();
}

async function takeFromCamera() {
  const video = $('video');
  const canvas = new OffscreenCanvas(video.videoWidth || 1, video.videoHeight || 1);
  canvas.getContext('2d').drawImage(video, 0, 0);
  const blob = await canvas.convertToBlob({ type: 'image/png' });
  closeCamera();
  await take(new File([blob], 'camera.png', { type: 'image/png' }));
}

// Suggestions: names of classes that go on where the typing has come to.

const lastWord = () => $('words').value.match(/[^;,]*$/)[0].replace(/^\s*(stuff|thing):/, '');

function suggest() {
  const typed = lastWord().trim().toLowerCase();
  const words = $('words').value.toLowerCase().split(/[;,]/);
  const there = new Set(words.map((w) => w.replace(/^\s*(stuff|thing):/, '').trim()));
  let found = [];
  if (typed) {
    const begin = state.words.filter((w) => w.toLowerCase().startsWith(typed));
    const inside = state.words.filter((w) => w.toLowerCase().includes(` ${typed}`));
    found = [...new Set([...begin, ...inside])].filter((w) => !there.has(w.toLowerCase()));
  }
  const buttons = found.slice(0, SUGGESTED).map((word) => {
    const button = element('button', word);
    button.type = 'button';
    button.onclick = () => complete(word);
    return button;
  });
  $('suggestions').replaceChildren(...buttons);
}

function complete(word) {
  const input = $('words');
  const typed = lastWord();
  let kept = input.value.slice(0, input.value.length - typed.length);
  // A class of several words: from now on semicolons are between classes.
  if (word.includes(',') && !kept.includes(';')) kept = kept.replaceAll(',', ';');
  const blank = kept && !/[\s:]$/.test(kept) ? ' ' : '';
  input.value = `${kept}${blank}${word}${/;/.test(kept) || word.includes(',') ? '; ' : ', '}`;
  $('suggestions').replaceChildren();
  input.focus();
}

// What people do.

let pause;

$('request').onsubmit = (event) => {
  event.preventDefault();
  $('suggestions').replaceChildren();
  segment();
};
$('file').onchange = () => take($('file').files[0]);
$('camera').onclick = openCamera;
$('take').onclick = takeFromCamera;
$('leave').onclick = closeCamera;
$('camera-dialog').oncancel = closeCamera;
$('words').oninput = () => {
  $('vocabulary').value = '';
  suggest();
};
$('words').onkeydown = (event) => {
  if (event.key === 'Escape') $('suggestions').replaceChildren();
  if (event.key !== 'ArrowDown') return;
  event.preventDefault();
  $('suggestions').querySelector('button')?.focus();
};
$('vocabulary').onchange = refresh;
$('tasks').onchange = () => {
  resetThresholds();
  refresh();
  if (state.result) segment();
};
$('thresholds').oninput = () => {
  refresh();
  clearTimeout(pause);
  if (!state.result) return;
  // Instances stand alone, so fewer of them need no server; of panoptic segments the
  // next ones take the place of those that go.
  if (state.result.task === 'instance') {
    show();
    say(counted());
  } else {
    pause = setTimeout(segment, PAUSE);
  }
};
$('masks').onchange = paint;
$('view').onpointermove = point;
$('view').onpointerdown = point;
$('view').onpointerleave = (event) => {
  // A finger that taps leaves at once, and the tip is what it tapped for.
  if (event.pointerType === 'touch') return;
  $('tip').hidden = true;
  light(0);
};
const over = (event) => Number(event.target.closest('button')?.dataset.number ?? 0);
for (const name of ['pointerover', 'focusin']) {
  $('regions').addEventListener(name, (event) => light(over(event)));
}
for (const name of ['pointerleave', 'focusout']) {
  $('regions').addEventListener(name, () => light(0));
}
for (const button of document.querySelectorAll('[data-format]')) {
  button.onclick = () => download(button.dataset.format);
}
document.addEventListener('paste', (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((f) => f.type.startsWith('image/'));
  if (!file) return;
  event.preventDefault();
  take(file);
});
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.add('dropping');
});
document.addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) document.body.classList.remove('dropping');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('dropping');
  take(event.dataTransfer.files[0]);
});

start().catch((error) => fail(error.message));
