// The charts of the group report.

const SVG = 'http://www.w3.org/2000/svg';
const FEWEST_FOR_BOX = 5;
const MOST_DOTS = 150; // of a small chart; larger groups show their extremes only

function draw(tag, attributes, ...content) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
}

const quantile = (sorted, share) => {
  const place = (sorted.length - 1) * share;
  const low = Math.floor(place);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (place - low) * (sorted[high] - sorted[low]);
};

const format = (value) => {
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 4));
};

// Round numbers that divide a range into about n parts.
function ticks(low, high, n) {
  const rough = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / size); i * size <= high + size / 1e6; i += 1) found.push(i * size);
  return found.map((tick) => Number(tick.toPrecision(10)));
}

class Charts {
  constructor(data) {
    Object.assign(this, data);
    this.total = this.measures.find((measure) => measure.total);
    this.box = document.getElementById('chart');
    this.title = document.getElementById('chart-title');
    this.select = document.getElementById('measure');
    this.relative = document.getElementById('relative');
    this.tip = document.createElement('div');
    this.tip.className = 'tip';
    this.tip.hidden = true;
    this.fillSelect();
    this.select.addEventListener('input', () => this.drawMain());
    this.relative.addEventListener('input', () => { this.drawMain(); this.drawSmall(); });
    this.box.addEventListener('pointerover', (event) => this.point(event.target));
    this.box.addEventListener('pointerout', () => { this.tip.hidden = true; });
    this.box.addEventListener('click', (event) => {
      const image = this.images[event.target.dataset.image];
      if (image) location.href = image[3];
    });
    new ResizeObserver(() => this.drawMain()).observe(this.box);
    this.drawSmall();
  }

  fillSelect() {
    const groups = {};
    this.measures.forEach((measure, i) => {
      groups[measure.group] ??= document.createElement('optgroup');
      groups[measure.group].label = measure.group;
      groups[measure.group].append(new Option(measure.name, i));
    });
    this.select.append(...Object.values(groups));
    const first = this.measures.findIndex((measure) => measure.name === 'Hippocampus');
    this.select.value = Math.max(first, 0);
  }

  // [value, image] of each contrast, in ascending order.
  values(measure) {
    const relative = this.isRelative(measure);
    const found = this.contrasts.map(() => []);
    measure.values.forEach((value, image) => {
      if (value === null) return;
      const total = relative ? this.total.values[image] : 100;
      if (total) found[this.images[image][2]].push([(100 * value) / total, image]);
    });
    return found.map((items) => items.sort((a, b) => a[0] - b[0]));
  }

  isRelative(measure) {
    return this.relative.checked && this.total && measure.unit === 'ml' && !measure.total
      && measure.group.startsWith(this.total.group); // also those of parcels
  }

  drawMain() {
    const measure = this.measures[this.select.value];
    const unit = this.isRelative(measure) ? '% of intracranial' : measure.unit;
    this.title.textContent = `${measure.group}: ${measure.name}${unit ? ` (${unit})` : ''}`;
    const width = Math.max(this.box.clientWidth, 300);
    const groups = this.values(measure)
      .map((items, contrast) => ({ items, contrast }))
      .filter(({ items }) => items.length);
    const left = 74;
    const lane = Math.max(74, Math.min(120, 300 / groups.length));
    const height = groups.length * lane + 34;
    const everything = groups.flatMap(({ items }) => items.map(([value]) => value));
    const scale = Charts.scale(everything, left, width - 16);
    const svg = draw('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img' });
    for (const tick of ticks(scale.low, scale.high, width < 500 ? 4 : 8)) {
      const x = scale(tick);
      svg.append(
        draw('line', { class: 'grid', x1: x, x2: x, y1: 6, y2: height - 24 }),
        draw('text', { x, y: height - 8, 'text-anchor': 'middle' }, String(tick)),
      );
    }
    const said = [];
    groups.forEach(({ items, contrast }, row) => {
      const middle = row * lane + lane / 2 + 6;
      svg.append(draw('text', { class: 'name', x: 0, y: middle - 2 }, this.contrasts[contrast]));
      svg.append(draw('text', { x: 0, y: middle + 13 }, `n = ${items.length}`));
      svg.append(...Charts.spread(items, scale, middle, lane * 0.36));
      svg.append(this.dots(items, contrast, scale, middle, lane * 0.4));
      const median = quantile(items.map(([value]) => value), 0.5);
      said.push(`${this.contrasts[contrast]}: ${items.length} images, median ${format(median)}`);
    });
    svg.setAttribute('aria-label', `${this.title.textContent}. ${said.join('. ')}`);
    this.box.replaceChildren(svg, this.tip);
    for (const button of document.querySelectorAll('#small-multiples button')) {
      button.setAttribute('aria-pressed', String(button.value === this.select.value));
    }
  }

  static scale(values, from, to) {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    const margin = (high - low) * 0.03 || Math.abs(high) * 0.05 || 1;
    low -= margin;
    high += margin;
    const place = (value) => from + ((value - low) / (high - low)) * (to - from);
    return Object.assign(place, { low, high });
  }

  static spread(items, scale, middle, half) {
    if (items.length < FEWEST_FOR_BOX) return [];
    const sorted = items.map(([value]) => value);
    const [p5, p25, p50, p75, p95] = [0.05, 0.25, 0.5, 0.75, 0.95]
      .map((share) => scale(quantile(sorted, share)));
    const box = { y: middle - half, height: 2 * half, rx: 4 };
    return [
      draw('line', { class: 'axis', x1: p5, x2: p95, y1: middle, y2: middle }),
      draw('rect', { class: 'band', x: p25, width: Math.max(p75 - p25, 1), ...box }),
      draw('line', { class: 'median', x1: p50, x2: p50, y1: middle - half, y2: middle + half }),
    ];
  }

  // Dots that would overlap move aside, nearest place first.
  dots(items, contrast, scale, middle, half) {
    const radius = items.length > 400 ? 2.2 : items.length > 100 ? 3 : 4.2;
    const group = draw('g', { class: `c${contrast % 8}` });
    const rows = Math.max(1, Math.floor(half / (1.6 * radius)));
    const order = Array.from({ length: 2 * rows + 1 }, (_, i) => (i % 2 ? (i + 1) / 2 : -i / 2));
    const last = new Map();
    for (const [value, image] of items) {
      const x = scale(value);
      const free = order.find((row) => x - (last.get(row) ?? -Infinity) >= 2 * radius);
      const row = free ?? order.reduce((a, b) => (last.get(a) <= last.get(b) ? a : b));
      last.set(row, x);
      group.append(draw('circle', {
        cx: x.toFixed(1), cy: (middle + row * 1.6 * radius).toFixed(1), r: radius,
        'data-image': image, 'data-value': value,
      }));
    }
    return group;
  }

  point(target) {
    const image = this.images[target.dataset?.image];
    if (!image) return;
    this.tip.textContent = `${image[0]} · ${image[1]}: ${format(Number(target.dataset.value))}`;
    this.tip.hidden = false;
    const [dot, box] = [target.getBoundingClientRect(), this.box.getBoundingClientRect()];
    const half = this.tip.offsetWidth / 2;
    const x = Math.min(Math.max(dot.left - box.left + 4, half), box.width - half);
    this.tip.style.left = `${x}px`;
    this.tip.style.top = `${dot.top - box.top}px`;
  }

  drawSmall() {
    const volumes = this.measures
      .map((measure, i) => ({ measure, i }))
      .filter(({ measure }) => measure.group === this.measures[0].group);
    document.getElementById('small-multiples').replaceChildren(
      ...volumes.map(({ measure, i }) => this.small(measure, i)),
    );
  }

  small(measure, i) {
    const groups = this.values(measure);
    const scale = Charts.scale(groups.flatMap((items) => items.map(([value]) => value)), 6, 194);
    const svg = draw('svg', { viewBox: `0 0 200 ${14 * groups.length + 4}`, 'aria-hidden': true });
    groups.forEach((items, contrast) => {
      if (!items.length) return;
      const middle = 14 * contrast + 9;
      const shown = items.length > MOST_DOTS ? [items[0], items.at(-1)] : items;
      const path = shown.map(([value]) => `M${scale(value).toFixed(1)} ${middle}h0`).join('');
      svg.append(
        draw('path', { class: `points c${contrast % 8}`, d: path }),
        ...Charts.spread(items, scale, middle, 4),
      );
    });
    const button = document.createElement('button');
    button.type = 'button';
    button.value = i;
    const name = document.createElement('strong');
    name.textContent = measure.name;
    button.append(name, svg);
    button.addEventListener('click', () => {
      this.select.value = i;
      this.drawMain();
      this.title.scrollIntoView({ block: 'nearest' });
    });
    return button;
  }
}

document.addEventListener('DOMContentLoaded', () => {
  const data = parse('group-data');
  if (data) new Charts(data);
});
