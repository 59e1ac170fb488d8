// Bilinear upsampling as a transposed convolution: every value adds its multiple of a tent.
"use strict";
(() => {
  const { el, svg, set, number, slider, choice, button, draggable, knob, panel, clamp, mount } = explainers.ui;
  const { plot, trace } = explainers.plot;
  const { bilinearKernel, upsample } = explainers.convolution;

  const VALUES = [2, 5, 3, 4, 1];
  const STYLES = ["a", "b", "c", "d", "a"];
  const TOP = 6;

  mount("bilinear_upsampling", (root) => {
    const values = [...VALUES];
    let stride = 4;
    let kind = "bilinear";
    const kernels = {
      bilinear: () => bilinearKernel(2 * stride, stride),
      odd: () => bilinearKernel(2 * stride - 1, stride),
      nearest: () => Array(stride).fill(1),
    };

    const axes = plot({
      label: "Values, tents and their sum",
      height: 240,
      x: [-1, 5],
      y: [0, TOP],
      xTicks: [0, 1, 2, 3, 4],
      yTicks: [0, 2, 4, 6],
      xLabel: "input cell",
      yLabel: "value",
    });
    const tents = values.map((_, i) =>
      svg("path", { class: `e-line e-thin e-stroke-${STYLES[i]} e-fill-${STYLES[i]} e-tent` }),
    );
    const sum = svg("path", { class: "e-line e-stroke-ink" });
    const stems = svg("g", { class: "e-fill-ink" });
    axes.node.append(...tents, sum, stems);
    const knobs = values.map((_, i) => {
      const circle = knob(`e-stroke-${STYLES[i]}`);
      axes.node.append(circle);
      const say = draggable(circle, {
        label: `Value of cell ${i}`,
        get: () => [axes.X(i), axes.Y(values[i])],
        move: (_, y) => {
          values[i] = clamp(Math.round(4 * axes.fromY(y)) / 4, 0, TOP - 0.5);
          draw();
        },
        describe: () => number(values[i]),
        step: axes.Y(0) - axes.Y(0.25),
      });
      return { circle, say };
    });

    const heat = svg("svg", { viewBox: "0 0 240 240", role: "img", "aria-label": "Kernel in two dimensions" });
    const words = el("p", { class: "e-note e-lines-2" });
    const formula = el("p", { class: "e-formula", role: "status" });
    const code = el("code", { class: "e-code" });

    function draw() {
      const kernel = kernels[kind]();
      const size = kernel.length;
      // Output cell u lies at (u - (k - 1) / 2) / s in units of input cells.
      const place = (u) => (u - (size - 1) / 2) / stride;
      values.forEach((value, i) => {
        const points = kernel.map((weight, k) => [axes.X(place(stride * i + k)), axes.Y(weight * value)]);
        const [first, last] = kind === "nearest" ? [points[0][0], points[size - 1][0]] : [axes.X(i - 1), axes.X(i + 1)];
        set(tents[i], { d: `${trace([[first, axes.Y(0)], ...points, [last, axes.Y(0)]])}Z` });
        set(knobs[i].circle, { transform: `translate(${axes.X(i)} ${axes.Y(value)})` });
        knobs[i].say();
      });
      const result = upsample(values, kernel, stride);
      const points = result.map((value, u) => [axes.X(place(u)), axes.Y(value)]);
      set(sum, { d: trace(points) });
      stems.replaceChildren(...points.map(([cx, cy]) => svg("circle", { cx, cy, r: 2.4 })));
      const side = 240 / size;
      heat.replaceChildren(
        ...kernel.flatMap((down, i) =>
          kernel.flatMap((across, j) => {
            const weight = down * across;
            const box = {
              x: j * side,
              y: i * side,
              width: side,
              height: side,
              class: "e-fill-a e-weighted",
              "fill-opacity": weight.toFixed(3),
            };
            const middle = {
              x: (j + 0.5) * side,
              y: (i + 0.5) * side + 4,
              "text-anchor": "middle",
              text: number(weight).replace(/^0\./, "."),
            };
            return size > 8
              ? [svg("rect", box)]
              : [svg("rect", box), svg("text", { ...middle, class: weight > 0.5 ? "e-on" : "" })];
          }),
        ),
      );
      words.textContent = `${size} × ${size}: the outer product of (${kernel.map((weight) => number(weight).replace(/0+$/, "").replace(/\.$/, "")).join(", ")}) with itself.`;
      formula.innerHTML = `s(h − 1) + k = ${stride}·(${values.length} − 1) + ${size} = <b class="e-c">${result.length}</b> output cells along an axis`;
      const taps = kind === "nearest" ? `torch.ones(${stride})` : `bilinear_kernel(${size}, ${stride})`;
      code.textContent =
        `kernel = ${taps}\n` +
        `F.conv_transpose2d(x, torch.outer(kernel, kernel)[None, None], stride=${stride})  # x: (B, 1, H, W)`;
    }

    const strides = slider({
      label: "stride s",
      min: 2,
      max: 8,
      value: stride,
      onInput: (value) => {
        stride = value;
        draw();
      },
    });
    const kinds = choice({
      label: "Kernel",
      options: { bilinear: "bilinear, k = 2s", odd: "bilinear, k = 2s − 1", nearest: "nearest, k = s" },
      value: kind,
      onChange: (key) => {
        kind = key;
        draw();
      },
    });
    const impulse = button("One cell only", () => {
      values.splice(0, values.length, 0, 0, 4, 0, 0);
      draw();
    });
    const reset = button("Reset", () => {
      values.splice(0, values.length, ...VALUES);
      draw();
    });
    root.append(
      kinds,
      el(
        "div",
        { class: "e-panels" },
        panel("One axis: tents (coloured) and their sum (points)", axes.node),
        panel("Kernel in two dimensions", heat, words),
      ),
      el("div", { class: "e-controls" }, strides.node, el("div", { class: "e-buttons" }, impulse, reset)),
      formula,
      code,
    );
    draw();
  });
})();
