// Elements, controls and handles that all explainers share. Colours are those of stylesheets/explainers.css.
"use strict";
(() => {
  const NAMESPACE = "http://www.w3.org/2000/svg";

  /** Set attributes of an element: "text" is its content, a function is a listener, null removes. */
  function set(node, attributes) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") {
        if (node.textContent !== String(value)) node.textContent = value;
      } else if (typeof value === "function") node.addEventListener(name, value);
      else if (value === null || value === false) node.removeAttribute(name);
      else node.setAttribute(name, value === true ? "" : value);
    }
    return node;
  }

  function build(node, attributes, children) {
    set(node, attributes).append(...children);
    return node;
  }

  const el = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    build(document.createElementNS(NAMESPACE, tag), attributes, children);

  /** A number with a fixed count of digits and a true minus sign. */
  const number = (value, digits = 2) => {
    const text = value.toFixed(digits);
    return Number(text) === 0 ? (0).toFixed(digits) : text.replace("-", "−");
  };

  /** Range input with its label and value. `set(value)` does not call onInput. */
  function slider({ label, min, max, step = 1, value, format = String, onInput }) {
    const input = el("input", { type: "range", min, max, step, "aria-label": label });
    const output = el("output");
    const show = () => {
      output.textContent = format(Number(input.value));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.value = value;
    input.addEventListener("input", () => {
      show();
      onInput(Number(input.value));
    });
    show();
    const change = (next) => {
      input.value = next;
      show();
    };
    const limit = (limits) => {
      set(input, limits);
      show();
    };
    const node = el("label", { class: "e-slider" }, el("span", { text: label }), input, output);
    return { node, limit, set: change, get: () => Number(input.value) };
  }

  const button = (text, onClick, attributes = {}) =>
    el("button", { type: "button", text, click: onClick, ...attributes });

  let groups = 0;

  /** Radio buttons: `options` are texts by value. */
  function choice({ label, options, value, onChange }) {
    const name = `e-choice-${groups++}`;
    const items = Object.entries(options).map(([key, text]) => {
      const input = el("input", { type: "radio", name, value: key, change: () => onChange(key) });
      input.checked = key === value;
      return el("label", {}, input, el("span", { text }));
    });
    return el("fieldset", { class: "e-choice" }, el("legend", { text: label }), ...items);
  }

  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  /**
   * Buttons that play, step and reset. Nothing moves before a click.
   *
   * `onStep` advances and returns whether there is more. `interval()` is in milliseconds, and is at least 700 for readers
   * who prefer less motion.
   */
  function player({ onStep, onReset, interval, step = "Step", reset = "Reset" }) {
    let timer = null;
    const play = button("Play", () => (timer ? stop() : start()), { class: "e-play" });
    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    }
    function start() {
      play.textContent = "Pause";
      timer = setInterval(() => onStep() || stop(), Math.max(interval(), still() ? 700 : 0));
      if (!onStep()) stop();
    }
    const halted = (action) => () => {
      stop();
      action();
    };
    const node = el("div", { class: "e-buttons" }, play, button(step, halted(onStep)), button(reset, halted(onReset)));
    return { node, stop };
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  /** Position of a pointer in the coordinates of an SVG's viewBox. */
  function locate(figure, event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(figure.getScreenCTM().inverse());
    return [point.x, point.y];
  }

  const points = []; // all handles that are points

  /** The handle nearest to a pointer, of those that are points: their reaches may overlap. */
  function nearest(figure, event) {
    const [x, y] = locate(figure, event);
    const distance = (handle) => Math.hypot(handle.get()[0] - x, handle.get()[1] - y);
    const here = points.filter((handle) => handle.node.ownerSVGElement === figure);
    return here.reduce((best, handle) => (distance(handle) < distance(best) ? handle : best));
  }

  /**
   * Make an SVG element a handle: to drag, or to move by arrow keys (with Shift five times as far).
   *
   * `get` returns the position in the viewBox, `move(x, y)` changes it, `describe` says it in words. `step` is the
   * distance of a key. The element becomes a focusable slider with this label. Handles with a circle of class e-reach are
   * points; the nearest of a figure is dragged. Returns a function that updates the words.
   */
  function draggable(node, { label, get, move, describe, step = 4 }) {
    let grip = null;
    const say = () => set(node, { "aria-valuetext": describe(), "aria-valuenow": Math.round(get()[0]) });
    const go = (x, y) => {
      move(x, y);
      say();
    };
    const grab = (event) => {
      const [x, y] = locate(node.ownerSVGElement, event);
      grip = [get()[0] - x, get()[1] - y];
      node.setPointerCapture(event.pointerId);
    };
    const point = node.querySelector("circle.e-reach");
    if (point) points.push({ node, get, grab });
    set(node, {
      tabindex: 0,
      role: "slider",
      "aria-label": label,
      "aria-roledescription": "handle",
      "aria-valuemax": 1000,
    });
    node.classList.add("e-handle");
    node.addEventListener("pointerdown", (event) => {
      if (point) nearest(node.ownerSVGElement, event).grab(event);
      else grab(event);
    });
    node.addEventListener("pointermove", (event) => {
      if (!grip) return;
      const [x, y] = locate(node.ownerSVGElement, event);
      go(x + grip[0], y + grip[1]);
    });
    for (const name of ["pointerup", "pointercancel"]) node.addEventListener(name, () => (grip = null));
    node.addEventListener("keydown", (event) => {
      if (!ARROWS[event.key]) return;
      const far = step * (event.shiftKey ? 5 : 1);
      const [x, y] = get();
      go(x + far * ARROWS[event.key][0], y + far * ARROWS[event.key][1]);
      event.preventDefault();
    });
    say();
    return say;
  }

  /** Circle to drag, with a reach for fingers; `style` is the class of its colour. */
  const knob = (style) =>
    svg("g", { class: style }, svg("circle", { r: 15, class: "e-reach" }), svg("circle", { r: 5.5, class: "e-knob" }));

  /** Call `pick(x, y)`, in the viewBox, where a pointer is pressed in a figure and while it is dragged. */
  function follow(figure, pick) {
    figure.addEventListener("pointerdown", (event) => {
      figure.setPointerCapture(event.pointerId);
      pick(...locate(figure, event));
    });
    figure.addEventListener("pointermove", (event) => {
      if (figure.hasPointerCapture(event.pointerId)) pick(...locate(figure, event));
    });
  }

  /** Figure with a caption. */
  const panel = (caption, ...children) =>
    el("figure", { class: "e-panel" }, el("figcaption", {}, caption), ...children);

  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  /** Fill the element of a page that asks for this explainer. */
  function mount(name, fill) {
    const node = document.querySelector(`[data-explainer="${name}"]`);
    if (!node) return;
    node.replaceChildren();
    fill(node);
  }

  globalThis.explainers = Object.assign(globalThis.explainers ?? {}, {
    ui: { el, svg, set, number, slider, button, choice, player, draggable, knob, follow, panel, clamp, mount, ARROWS },
  });
})();
