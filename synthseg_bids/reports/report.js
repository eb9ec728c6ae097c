'use strict';
// Shared by both reports: theme, help, navigation, pictures and tables.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const parse = (id) => {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : null;
};

// ---- theme -----------------------------------------------------------------------------------

const theme = {
  // Where scripts of local files may not store anything, the choice lasts as long as the page.
  load() { try { return localStorage.getItem('synthseg-bids-theme'); } catch { return null; } },
  save(value) { try { localStorage.setItem('synthseg-bids-theme', value); } catch { /* fine */ } },
  toggle() {
    const root = document.documentElement;
    const dark = root.dataset.theme
      ? root.dataset.theme === 'dark'
      : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = dark ? 'light' : 'dark';
    theme.save(root.dataset.theme);
    document.dispatchEvent(new Event('theme'));
  },
};
if (theme.load()) document.documentElement.dataset.theme = theme.load();

// ---- pictures --------------------------------------------------------------------------------

const LINE = 3; // subpixels of a contour; a pixel of the picture has SCALE of them
const SCALE = 4;

class Viewer {
  constructor(figure, names) {
    this.figure = figure;
    this.names = names;
    this.mode = 'contours';
    this.only = null;
    this.layers = all('img.labels', figure);
    this.legends = all('.legend', figure);
    this.labels = this.layers[0];
    this.readout = figure.querySelector('output');
    this.pane = figure.querySelector('.pane');
    this.hint = this.readout.textContent;
    for (const button of all('[data-mode]', figure)) {
      button.addEventListener('click', () => this.show(button.dataset.mode));
    }
    figure.querySelector('.flicker').addEventListener('click', () => this.flicker());
    figure.querySelector('.full').addEventListener('click', () => this.fullScreen());
    this.button = figure.querySelector('.switch');
    this.button?.addEventListener('click', () => this.switchLayer());
    this.opacity = figure.querySelector('input[type=range]');
    this.opacity.addEventListener('input', () => this.show(this.mode));
    for (const chip of all('.legend button', figure)) {
      chip.addEventListener('click', () => this.isolate(chip));
    }
    this.pane.addEventListener('pointermove', (event) => this.name(event));
    this.pane.addEventListener('pointerdown', (event) => this.name(event));
    this.pane.addEventListener('pointerleave', () => { this.readout.textContent = this.hint; });
  }

  // Reading the pixels is left until the picture comes into view.
  prepare() {
    if (this.ready) return;
    const { labels } = this;
    this.ready = labels.decode().then(() => {
      if (labels !== this.labels) return; // another layer was chosen meanwhile
      const { naturalWidth: width, naturalHeight: height } = labels;
      const canvas = new OffscreenCanvas(width, height);
      const context = canvas.getContext('2d', { willReadFrequently: true });
      context.drawImage(labels, 0, 0);
      const { data } = context.getImageData(0, 0, width, height);
      const colors = new Int32Array(width * height);
      for (let i = 0; i < colors.length; i += 1) {
        const j = 4 * i;
        if (data[j + 3]) colors[i] = 1 + ((data[j] << 16) | (data[j + 1] << 8) | data[j + 2]);
        // Browsers that disturb pixels against fingerprinting: stay with the filled labels.
        if (colors[i] && !this.names[colors[i] - 1]) return;
      }
      Object.assign(this, { colors, width, height });
      this.canvas = document.createElement('canvas');
      this.canvas.className = 'over';
      this.pane.append(this.canvas);
      this.draw();
      this.show(this.mode);
    });
  }

  draw() {
    const { width, height, colors } = this;
    this.canvas.width = width * SCALE;
    this.canvas.height = height * SCALE;
    const context = this.canvas.getContext('2d');
    const image = context.createImageData(width * SCALE, height * SCALE);
    const pixels = new Uint32Array(image.data.buffer);
    const fill = this.mode === 'fill';
    for (let y = 1; y < height - 1; y += 1) {
      for (let x = 1; x < width - 1; x += 1) {
        const i = y * width + x;
        const color = colors[i];
        if (!color || (this.only && !this.only.has(color - 1))) continue;
        const left = colors[i - 1] !== color;
        const right = colors[i + 1] !== color;
        const up = colors[i - width] !== color;
        const down = colors[i + width] !== color;
        if (!fill && !left && !right && !up && !down) continue;
        const ink = Viewer.ink(color - 1, fill);
        for (let v = 0; v < SCALE; v += 1) {
          const row = (y * SCALE + v) * width * SCALE + x * SCALE;
          const edge = (up && v < LINE) || (down && v >= SCALE - LINE);
          for (let u = 0; u < SCALE; u += 1) {
            if (fill || edge || (left && u < LINE) || (right && u >= SCALE - LINE)) {
              pixels[row + u] = ink;
            }
          }
        }
      }
    }
    context.putImageData(image, 0, 0);
  }

  // Lines of dark colours would vanish on a dark scan.
  static ink(color, fill) {
    let [r, g, b] = [color >> 16, (color >> 8) & 255, color & 255];
    const luminance = 0.3 * r + 0.59 * g + 0.11 * b;
    if (!fill && luminance < 125) {
      const mix = (125 - luminance) / 180;
      [r, g, b] = [r, g, b].map((part) => Math.round(part + mix * (255 - part)));
    }
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }

  show(mode) {
    const redraw = this.canvas && (mode === 'fill') !== (this.mode === 'fill');
    this.mode = mode;
    if (redraw) this.draw();
    const overlay = mode !== 'plain';
    const opacity = this.opacity.value / 100;
    if (this.canvas) {
      this.canvas.style.opacity = mode === 'fill' ? opacity * 0.6 : opacity;
      this.canvas.hidden = !overlay;
    }
    this.labels.hidden = Boolean(this.canvas) || !overlay;
    this.labels.style.opacity = opacity * 0.6;
    this.sideBySide(mode === 'side');
    for (const button of all('[data-mode]', this.figure)) {
      button.setAttribute('aria-pressed', String(button.dataset.mode === mode));
    }
  }

  sideBySide(on) {
    this.figure.classList.toggle('side-by-side', on);
    if (on && !this.second) {
      this.second = document.createElement('div');
      this.second.className = 'pane';
      this.second.append(this.pane.querySelector('img.scan').cloneNode());
      this.pane.before(this.second);
    }
    if (this.second) this.second.hidden = !on;
  }

  flicker() {
    if (this.mode !== 'plain') this.before = this.mode === 'side' ? 'contours' : this.mode;
    this.show(this.mode === 'plain' ? this.before || 'contours' : 'plain');
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (this.figure.requestFullscreen) this.figure.requestFullscreen();
  }

  // From structures to parcels and back; the pixels are read again.
  switchLayer() {
    if (!this.button) return;
    const next = (this.layers.indexOf(this.labels) + 1) % this.layers.length;
    this.labels.hidden = true;
    this.labels = this.layers[next];
    this.legends.forEach((legend, i) => { legend.hidden = i !== next; });
    this.button.setAttribute('aria-pressed', String(next > 0));
    this.canvas?.remove();
    Object.assign(this, { canvas: null, colors: null, ready: null, only: null });
    for (const chip of all('.legend button', this.figure)) {
      chip.setAttribute('aria-pressed', 'false');
    }
    this.show(this.mode === 'plain' ? 'contours' : this.mode);
    this.prepare();
  }

  isolate(chip) {
    const pressed = chip.getAttribute('aria-pressed') === 'true';
    for (const other of all('.legend button', this.figure)) {
      other.setAttribute('aria-pressed', 'false');
    }
    chip.setAttribute('aria-pressed', String(!pressed));
    this.only = pressed ? null : new Set(chip.dataset.colors.split(' ').map(Number));
    if (this.canvas) this.draw();
    if (this.mode === 'plain') this.show('contours');
  }

  name(event) {
    if (!this.colors) return;
    const box = this.pane.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * this.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * this.height);
    const color = this.colors[y * this.width + x];
    this.readout.textContent = (color && this.names[color - 1]) || this.hint;
  }
}

const viewers = [];

function startViewers() {
  const names = parse('label-names');
  if (!names) return;
  for (const figure of all('figure.viewer')) viewers.push(new Viewer(figure, names));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((seen) => seen.isIntersecting)) {
      viewers.find((viewer) => viewer.figure === entry.target).prepare();
    }
  }, { rootMargin: '600px' });
  viewers.forEach((viewer) => watch.observe(viewer.figure));
  addEventListener('beforeprint', () => viewers.forEach((viewer) => viewer.prepare()));
}

function currentViewer() {
  const focused = viewers.find((viewer) => viewer.figure.contains(document.activeElement));
  if (focused) return focused;
  const middle = innerHeight / 2;
  const away = ({ figure }) => {
    const { top, bottom } = figure.getBoundingClientRect();
    return Math.max(top - middle, middle - bottom, 0);
  };
  return viewers.reduce((best, one) => (best && away(best) <= away(one) ? best : one), null);
}

// ---- keys ------------------------------------------------------------------------------------

function step(by) {
  const sections = all('[data-step]');
  const line = innerHeight * 0.3;
  const above = sections.filter((section) => section.getBoundingClientRect().top <= line).length;
  const next = sections[Math.min(Math.max(above - 1 + by, 0), sections.length - 1)];
  if (next) next.scrollIntoView();
}

const KEYS = {
  f: () => currentViewer()?.flicker(),
  1: () => currentViewer()?.show('contours'),
  2: () => currentViewer()?.show('fill'),
  3: () => currentViewer()?.show('plain'),
  4: () => currentViewer()?.show('side'),
  e: () => currentViewer()?.fullScreen(),
  p: () => currentViewer()?.switchLayer(),
  j: () => step(1),
  k: () => step(-1),
  t: () => theme.toggle(),
  '/': () => document.querySelector('input[type=search]')?.focus(),
  '?': () => document.getElementById('help').showModal(),
};

addEventListener('keydown', (event) => {
  const typing = event.target.closest?.('input:not([type=range]), select, textarea, dialog[open]');
  const action = KEYS[event.key];
  if (!action || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  action();
});

// ---- tables ----------------------------------------------------------------------------------

const MOST_ROWS = 100;

class SortableTable {
  constructor(table) {
    this.body = table.tBodies[0];
    this.rows = [...this.body.rows];
    this.heads = [...table.tHead.rows[0].cells];
    this.heads.forEach((head, column) => {
      const button = document.createElement('button');
      button.className = 'sort';
      button.type = 'button';
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener('click', () => this.sort(column));
    });
    this.more = document.createElement('button');
    this.more.type = 'button';
    this.more.addEventListener('click', () => { this.most = Infinity; this.show(); });
    table.parentElement.after(this.more);
    this.most = MOST_ROWS;
    this.fits = new Set(this.rows);
    const box = table.closest('[data-filtered]');
    if (box) this.watch(box);
    this.show();
  }

  watch(box) {
    this.search = box.querySelector('input[type=search]');
    this.choices = all('select', box);
    this.count = box.querySelector('output');
    this.texts = new Map(this.rows.map((row) => [row, row.textContent.toLowerCase()]));
    for (const control of [this.search, ...this.choices]) {
      control.addEventListener('input', () => this.filter());
    }
  }

  sort(column) {
    const up = this.heads[column].getAttribute('aria-sort') !== 'ascending';
    this.heads.forEach((head, i) => {
      if (i === column) head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      else head.removeAttribute('aria-sort');
    });
    const keyed = this.rows.map((row) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.textContent.trim();
      return { row, text, number: text === '' ? NaN : Number(text) };
    });
    keyed.sort((a, b) => {
      // What has no value comes last either way.
      if ((a.text === '') !== (b.text === '')) return a.text === '' ? 1 : -1;
      const difference = Number.isNaN(a.number - b.number)
        ? a.text.localeCompare(b.text, undefined, { numeric: true })
        : a.number - b.number;
      return up ? difference : -difference;
    });
    this.rows = keyed.map((item) => item.row);
    this.body.append(...this.rows);
    this.show();
  }

  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = this.choices.filter((choice) => choice.value);
    this.fits = new Set(this.rows.filter((row) => {
      const text = this.texts.get(row);
      return words.every((word) => text.includes(word))
        && wanted.every((choice) => row.dataset[choice.name] === choice.value);
    }));
    this.show();
  }

  // Thousands of rows at once would make the page slow.
  show() {
    let shown = 0;
    for (const row of this.rows) {
      row.hidden = !this.fits.has(row) || shown >= this.most;
      if (!row.hidden) shown += 1;
    }
    this.more.hidden = shown === this.fits.size;
    this.more.textContent = `Show all ${this.fits.size} rows`;
    if (this.count) this.count.textContent = `${this.fits.size} of ${this.rows.length}`;
  }
}

// ---- start -----------------------------------------------------------------------------------

document.addEventListener('DOMContentLoaded', () => {
  startViewers();
  all('table.sortable').forEach((table) => new SortableTable(table));
  document.getElementById('theme').addEventListener('click', theme.toggle);
  const help = document.getElementById('help');
  document.getElementById('help-button').addEventListener('click', () => help.showModal());
  help.querySelector('button').addEventListener('click', () => help.close());
  // Paper does not unfold.
  addEventListener('beforeprint', () => {
    for (const part of all('details:not([open])')) {
      part.open = true;
      part.dataset.forPrint = '';
    }
  });
  addEventListener('afterprint', () => {
    for (const part of all('details[data-for-print]')) {
      part.open = false;
      delete part.dataset.forPrint;
    }
  });
  const links = all('nav.side a');
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((seen) => seen.isIntersecting)) {
      for (const link of links) {
        const here = link.hash === `#${CSS.escape(entry.target.id)}` || link.hash.slice(1) === entry.target.id;
        link.setAttribute('aria-current', String(here));
      }
    }
  }, { rootMargin: '-25% 0px -65% 0px' });
  all('main section[id]').forEach((section) => watch.observe(section));
});
