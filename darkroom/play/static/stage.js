// The canvas of an image with a pointer: a pixel is chosen, a stroke is painted or a box is drawn.
import { element } from "./elements.js";
import { context, makeCanvas, paint } from "./pixels.js";

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Stage {
  // label: for readers who do not see the image. onPoint([x, y]), onStroke() and onBox([x0, y0, x1, y1]) are called in
  // pixels of the image; onStroke after the pixels changed.
  constructor(label, width, height, calls) {
    Object.assign(this, { width, height, calls, mode: "point", brush: { colour: "#d9381e", size: 6 }, point: [width >> 1, height >> 1] });
    this.scale = Math.max(1, Math.floor(512 / Math.max(width, height))); // lines are finer than pixels
    this.image = makeCanvas(width, height);
    this.canvas = element("canvas", { class: "picture stage", tabindex: 0, role: "application", "aria-label": label });
    this.canvas.width = width * this.scale;
    this.canvas.height = height * this.scale;
    this.layers = [];
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.start && this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.release(event));
    this.canvas.addEventListener("keydown", (event) => this.pressKey(event));
  }

  place({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const [x, y] = [((clientX - left) / width) * this.width, ((clientY - top) / height) * this.height];
    return [Math.min(Math.max(x, 0), this.width), Math.min(Math.max(y, 0), this.height)];
  }

  press(event) {
    event.preventDefault();
    this.canvas.focus();
    this.canvas.setPointerCapture(event.pointerId);
    this.start = this.before = this.place(event);
    this.move(event);
  }

  move(event) {
    const place = this.place(event);
    if (this.mode === "point") this.choose(place);
    if (this.mode === "stroke") this.stroke(this.before, place);
    if (this.mode === "box") this.calls.onBox?.(between(this.start, place));
    this.before = place;
  }

  release() {
    if (this.start && this.mode === "stroke") this.calls.onStroke?.();
    this.start = null;
  }

  pressKey(event) {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    const far = event.shiftKey ? 8 : 1;
    this.choose([this.point[0] + far * step[0], this.point[1] + far * step[1]]);
  }

  choose([x, y]) {
    this.point = [Math.min(Math.max(Math.floor(x), 0), this.width - 1), Math.min(Math.max(Math.floor(y), 0), this.height - 1)];
    this.calls.onPoint?.(this.point);
  }

  stroke([x0, y0], [x1, y1]) {
    const drawing = context(this.image);
    Object.assign(drawing, { strokeStyle: this.brush.colour, lineWidth: this.brush.size, lineCap: "round" });
    drawing.beginPath();
    drawing.moveTo(x0, y0);
    drawing.lineTo(x1 + 0.01, y1);
    drawing.stroke();
    this.draw();
  }

  setPixels(pixels) {
    paint(this.image, pixels);
    this.draw();
  }

  pixels() {
    return context(this.image).getImageData(0, 0, this.width, this.height);
  }

  // layers: functions that draw over the image, in its pixels.
  setLayers(...layers) {
    this.layers = layers;
    this.draw();
  }

  draw() {
    const drawing = context(this.canvas);
    drawing.setTransform(1, 0, 0, 1, 0, 0);
    drawing.imageSmoothingEnabled = false;
    drawing.drawImage(this.image, 0, 0, this.canvas.width, this.canvas.height);
    drawing.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    for (const layer of this.layers) layer(drawing, 1 / this.scale);
  }
}

function between([x0, y0], [x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}

// A layer that marks a pixel.
export function markPixel([x, y]) {
  return (drawing, pixel) => {
    for (const [colour, width] of [["#000", 5], ["#fff", 2]]) {
      Object.assign(drawing, { strokeStyle: colour, lineWidth: width * pixel });
      drawing.strokeRect(x, y, 1, 1);
    }
  };
}

// A layer that draws boxes: { corners, colour, text, dashed }.
export function drawBoxes(boxes) {
  return (drawing, pixel) => {
    for (const { corners: [x0, y0, x1, y1], colour, dashed, width = 3 } of boxes) {
      drawing.setLineDash(dashed ? [8 * pixel, 6 * pixel] : []);
      Object.assign(drawing, { strokeStyle: colour, lineWidth: width * pixel });
      drawing.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    drawing.setLineDash([]);
    drawing.font = `600 ${15 * pixel}px system-ui, sans-serif`;
    drawing.textBaseline = "middle";
    for (const { corners: [x0, y0], colour, text } of boxes) {
      if (!text) continue;
      const wide = drawing.measureText(text).width + 8 * pixel;
      const top = Math.max(0, y0 - 20 * pixel);
      drawing.fillStyle = colour;
      drawing.fillRect(x0, top, wide, 20 * pixel);
      drawing.fillStyle = inkOn(colour);
      drawing.fillText(text, x0 + 4 * pixel, top + 10.5 * pixel);
    }
  };
}

function inkOn(colour) {
  const [red, green, blue] = colour.match(/\d+/g)?.map(Number) ?? [0, 0, 0];
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#161514" : "#fff";
}
