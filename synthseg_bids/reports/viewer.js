// The viewer: a scan and its label map, drawn by NiiVue.

import { MULTIPLANAR_TYPE, Niivue, SHOW_RENDER, SLICE_TYPE } from './niivue.js';

const MODES = {
  multi: SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  render: SLICE_TYPE.RENDER,
};
const all = (selector) => [...document.querySelectorAll(selector)];
const one = (id) => document.getElementById(id);

// What was chosen lasts from image to image, as long as the tab is open.
const settings = {
  mode: 'multi',
  opacity: '50',
  ...JSON.parse(sessionStorage.getItem('view') ?? '{}'),
  change(values) {
    Object.assign(this, values);
    sessionStorage.setItem('view', JSON.stringify(this));
  },
};

class Viewer {
  constructor(drawn) {
    this.drawn = drawn;
    this.only = null;
    this.bare = false;
    this.layers = drawn.layers; // structures and, if there are any, parcels
    this.chosen = 0;
    for (const layer of this.layers) {
      layer.names = new Map(layer.table.map((label) => [label.index, label.name]));
    }
    this.readout = document.querySelector('output');
    this.niivue = new Niivue({
      dragAndDropEnabled: false,
      crosshairWidth: 0.4,
      crosshairWidthUnit: 'percent',
      crosshairColor: [0.45, 0.72, 1, 0.8],
      fontColor: [0.7, 0.76, 0.82, 1],
      isNearestInterpolation: true,
      logLevel: 'error',
    });
    this.niivue.onLocationChange = ({ mm }) => this.tell(mm);
  }

  async start() {
    const canvas = one('canvas');
    await this.niivue.attachToCanvas(canvas);
    // Where there is no graphics card, drawing in 3D takes too long to do it at every step.
    const { opts, gl } = this.niivue;
    const info = gl.getExtension('WEBGL_debug_renderer_info');
    const renderer = gl.getParameter(info?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER);
    const slow = /swiftshader|llvmpipe|software/i.test(renderer);
    opts.multiplanarShowRender = slow ? SHOW_RENDER.NEVER : SHOW_RENDER.ALWAYS;
    opts.multiplanarLayout = slow ? MULTIPLANAR_TYPE.AUTO : MULTIPLANAR_TYPE.GRID;
    const { scan } = this.drawn;
    await this.niivue.loadVolumes([...(scan ? [scan] : []), this.layers[0].volume]);
    this.layers[0].loaded = this.niivue.volumes.at(-1);
    this.draw();
    canvas.addEventListener('pointermove', (event) => this.point(event));
    canvas.addEventListener('pointerleave', () => this.tell(this.crosshair()));
    one('opacity').addEventListener('input', (event) => this.change({ opacity: event.target.value }));
    one('flicker').addEventListener('click', () => this.flicker());
    one('parcels')?.addEventListener('click', () => this.switchLayer());
    document.addEventListener('keydown', (event) => {
      const typed = event.ctrlKey || event.metaKey || event.target.localName === 'select';
      if (event.key === 'f' && !typed) this.flicker();
      if (event.key === 'p' && !typed) this.switchLayer();
    });
    for (const button of all('[data-mode]')) {
      button.addEventListener('click', () => this.change({ mode: button.dataset.mode }));
    }
    for (const button of all('[data-labels]')) {
      button.addEventListener('click', () => this.isolate(button));
    }
    this.tell(this.crosshair());
  }

  change(values) {
    settings.change(values);
    this.show();
  }

  // Shows what is chosen with the next frame, so that a slider that is dragged does not fall behind.
  show() {
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      this.draw();
    });
  }

  draw() {
    one('opacity').value = settings.opacity;
    one('flicker').ariaPressed = String(this.bare);
    for (const button of all('[data-mode]')) {
      button.ariaPressed = String(button.dataset.mode === settings.mode);
    }
    this.colour();
    for (const { loaded } of this.layers) {
      const seen = loaded && loaded === this.labels && !this.bare;
      if (loaded) loaded.opacity = seen ? settings.opacity / 100 : 0;
    }
    this.niivue.opts.sliceType = MODES[settings.mode];
    this.niivue.updateGLVolume();
  }

  // Give the labels the colours of the table; those that are not asked for are transparent.
  colour() {
    const { table } = this.layers[this.chosen];
    const seen = ({ index }) => index && (!this.only || this.only.includes(index));
    this.labels.setColormapLabel({
      R: table.map(({ rgb }) => rgb[0]),
      G: table.map(({ rgb }) => rgb[1]),
      B: table.map(({ rgb }) => rgb[2]),
      A: table.map((label) => (seen(label) ? 255 : 0)),
      I: table.map(({ index }) => index),
      labels: table.map(({ name }) => name),
    });
  }

  flicker() {
    this.bare = !this.bare;
    this.show();
  }

  get labels() {
    return this.layers[this.chosen].loaded;
  }

  // From structures to parcels and back; the label map with parcels is loaded when it is wanted.
  async switchLayer() {
    if (this.layers.length < 2 || this.loading) return;
    const next = 1 - this.chosen;
    const layer = this.layers[next];
    if (!layer.loaded) {
      this.loading = true;
      try {
        layer.loaded = await this.niivue.addVolumeFromUrl(layer.volume);
      } catch (error) {
        this.readout.textContent = `The parcels cannot be shown: ${error.message ?? error}`;
        return;
      } finally {
        this.loading = false;
      }
    }
    this.chosen = next;
    this.only = null;
    one('parcels').ariaPressed = String(next === 1);
    all('.legend').forEach((legend, i) => { legend.hidden = i !== next; });
    for (const button of all('[data-labels]')) button.ariaPressed = 'false';
    this.show();
    this.tell(this.crosshair());
  }

  isolate(button) {
    const chosen = button.ariaPressed !== 'true';
    for (const other of all('[data-labels]')) other.ariaPressed = String(chosen && other === button);
    this.only = chosen ? button.dataset.labels.split(' ').map(Number) : null;
    this.show();
  }

  // In millimetres of the scanner, also where the slices are oblique.
  world(place) {
    return this.niivue.frac2mm(place, 0, true);
  }

  crosshair() {
    return this.world(this.niivue.scene.crosshairPos);
  }

  point({ offsetX, offsetY }) {
    const dpr = this.niivue.uiData.dpr ?? 1;
    const place = this.niivue.canvasPos2frac([offsetX * dpr, offsetY * dpr]);
    this.tell(place[0] < 0 ? this.crosshair() : this.world(place));
  }

  tell(mm) {
    if (!this.labels) return;
    const [x, y, z] = this.labels.mm2vox([...mm]);
    const { names } = this.layers[this.chosen];
    this.readout.textContent = names.get(this.labels.getValue(x, y, z)) || '\u200b';
    const [right, front, up] = [...mm].map((value) => Math.round(value) + 0);  // no -0
    one('place').textContent = `x ${right}, y ${front}, z ${up} mm`;
  }
}

const participant = document.querySelector('select[name=participant]');
participant.addEventListener('change', () => participant.form.submit());
document.querySelector('nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' });
const drawn = one('drawn');
if (drawn) {
  const state = one('state');
  const viewer = new Viewer(JSON.parse(drawn.textContent));
  viewer.start().then(
    () => { state.hidden = true; },
    (error) => {
      const able = document.createElement('canvas').getContext('webgl2');
      state.textContent = able
        ? `This image cannot be shown: ${error.message ?? error}`
        : 'This browser has no WebGL 2, which the viewer needs.';
    },
  );
}
