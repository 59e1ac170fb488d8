// Axes and lines of the explainers' plots, as SVG.
"use strict";
(() => {
  const { svg, set } = explainers.ui;

  const text = (x, y, content, attributes = {}) => svg("text", { x, y, text: content, ...attributes });

  /** Path through points in the viewBox; points without finite coordinates are left out. */
  function trace(points) {
    const shown = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
    return shown.length ? `M${shown.map(([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`).join("L")}` : "";
  }

  /**
   * Axes with ticks. `x` and `y` are ranges [low, high]; `xTicks` and `yTicks` lists of values; labels name the axes.
   *
   * Returns the SVG, the scales X and Y with their inverses, and `line(class)`: a new line, with `to(points)`.
   */
  function plot({ label, width = 320, height = 210, x, y, xTicks = [], yTicks = [], xLabel = "", yLabel = "" }) {
    const frame = { left: yTicks.length ? 34 : 10, right: width - 10, top: yLabel ? 20 : 10, bottom: height - 32 };
    const X = (value) => frame.left + ((value - x[0]) / (x[1] - x[0])) * (frame.right - frame.left);
    const Y = (value) => frame.bottom - ((value - y[0]) / (y[1] - y[0])) * (frame.bottom - frame.top);
    const fromX = (place) => x[0] + ((place - frame.left) / (frame.right - frame.left)) * (x[1] - x[0]);
    const fromY = (place) => y[0] + ((frame.bottom - place) / (frame.bottom - frame.top)) * (y[1] - y[0]);
    const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
    const axes = svg("g", { class: "e-axes", "aria-hidden": "true" });
    for (const tick of yTicks) {
      axes.append(svg("path", { class: "e-grid", d: `M${frame.left} ${Y(tick)}H${frame.right}` }));
      axes.append(text(frame.left - 5, Y(tick) + 3.5, String(tick).replace("-", "−"), { "text-anchor": "end" }));
    }
    axes.append(svg("path", { class: "e-axis", d: `M${frame.left} ${frame.bottom}H${frame.right}` }));
    for (const tick of xTicks) {
      axes.append(svg("path", { class: "e-axis", d: `M${X(tick)} ${frame.bottom}v3` }));
      axes.append(text(X(tick), frame.bottom + 14, String(tick).replace("-", "−"), { "text-anchor": "middle" }));
    }
    axes.append(text(frame.right, height - 4, xLabel, { "text-anchor": "end", class: "e-name" }));
    axes.append(text(frame.left, 11, yLabel, { class: "e-name" }));
    node.append(axes);
    const line = (style) => {
      const path = svg("path", { class: `e-line ${style}` });
      node.append(path);
      return { path, to: (points) => set(path, { d: trace(points.map(([a, b]) => [X(a), Y(b)])) }) };
    };
    return { node, X, Y, fromX, fromY, frame, line };
  }

  /** Evenly spaced numbers from low to high. */
  const range = (low, high, count) => Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

  globalThis.explainers = Object.assign(globalThis.explainers ?? {}, { plot: { plot, trace, text, range } });
})();
