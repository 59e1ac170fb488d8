// Reparameterization: fixed noise, samples that move with mean and standard deviation, and their gradients.
"use strict";
(() => {
  const { el, svg, set, number, slider, button, player, panel, clamp, mount } = explainers.ui;
  const { plot, range } = explainers.plot;
  const { normal, gradients } = explainers.gaussians;

  const COUNT = 16;
  const TARGET = 1.5;
  const LIMITS = { mean: [-3, 3], sd: [0.1, 2] };
  const loss = (z) => (z - TARGET) ** 2;
  const slope = (z) => 2 * (z - TARGET);

  mount("reparameterization", (root) => {
    const at = { mean: -1, sd: 1 };
    let seed = 9;
    let noise = [];
    const sample = () => {
      const next = normal(seed);
      noise = Array.from({ length: COUNT }, () => clamp(next(), -2.6, 2.6));
    };
    sample();

    const ticks = [-4, -2, 0, 2, 4];
    const axes = plot({
      label: "Samples z on the loss",
      height: 250,
      x: [-5, 5],
      y: [-6, 22],
      xTicks: ticks,
      yTicks: [0, 10, 20],
      xLabel: "z",
      yLabel: "loss (z − 1.5)²",
    });
    axes.line("e-stroke-muted").to(range(-3.2, 5, 200).map((z) => [z, loss(z)]));
    const level = axes.Y(-4.5); // where the noise lies
    const X = axes.X;
    axes.node.append(svg("path", { class: "e-grid", d: `M${X(-5)} ${level}H${X(5)}` }));
    axes.node.append(svg("text", { x: X(-4.9), y: level - 5, text: "noise ε" }));
    const marks = Array.from({ length: COUNT }, () => {
      const link = svg("path", { class: "e-line e-thin e-stroke-muted e-link" });
      const source = svg("circle", { r: 2.5, cy: level, class: "e-fill-muted" });
      const arrow = svg("path", { class: "e-line e-stroke-b e-arrow" });
      const dot = svg("circle", { r: 3.5, class: "e-fill-a" });
      axes.node.append(link, source, arrow, dot);
      return { link, source, arrow, dot };
    });

    const bars = svg("svg", { viewBox: "0 0 320 250", role: "img", "aria-label": "Estimates of the gradient" });
    const SCALE = [-40, 40];
    const B = (value) => 10 + ((clamp(value, ...SCALE) - SCALE[0]) / (SCALE[1] - SCALE[0])) * 300;
    const rows = [
      ["mean", "path", "∂/∂μ through the sample: ∇loss"],
      ["mean", "score", "∂/∂μ by the score: loss · ε / σ"],
      ["sd", "path", "∂/∂σ through the sample: ∇loss · ε"],
      ["sd", "score", "∂/∂σ by the score: loss · (ε² − 1) / σ"],
    ].map(([name, kind, title], i) => {
      const y = 26 + 54 * i;
      const dots = Array.from({ length: COUNT }, () =>
        svg("circle", { r: 2.5, cy: y, class: `e-fill-${kind === "path" ? "b" : "d"} e-soft-dot` }),
      );
      const mean = svg("path", { class: `e-line e-stroke-${kind === "path" ? "b" : "d"}` });
      const words = svg("text", { x: 10, y: y - 12 });
      bars.append(svg("path", { class: "e-grid", d: `M10 ${y}H310M${B(0)} ${y - 6}v12` }), ...dots, mean, words);
      return { name, kind, title, dots, mean, words, y };
    });
    for (const tick of [-40, -20, 0, 20, 40])
      bars.append(svg("text", { x: B(tick), y: 228, text: String(tick).replace("-", "−"), "text-anchor": "middle" }));

    const formula = el("p", { class: "e-formula", role: "status" });
    const code = el("code", { class: "e-code" });

    function draw() {
      const found = gradients(at.mean, at.sd, noise, loss, slope);
      found.samples.forEach(({ eps, z, slope: steep, loss: value }, i) => {
        const { link, source, arrow, dot } = marks[i];
        const [x, y] = [X(z), axes.Y(Math.min(22, value))];
        set(source, { cx: X(eps) });
        set(link, { d: `M${X(eps)} ${level}L${x} ${axes.Y(0)}V${y}` });
        set(dot, { cx: x, cy: y });
        const reach = clamp(-3 * steep, -60, 60); // downhill
        const head = Math.sign(reach) * Math.min(5, Math.abs(reach));
        set(arrow, { d: `M${x} ${y}h${reach.toFixed(2)}l${-head} -3.5m${head} 3.5l${-head} 3.5` });
      });
      for (const { name, kind, title, dots, mean, words, y } of rows) {
        found.samples.forEach((one, i) => set(dots[i], { cx: B(one[kind][name]) }));
        const { mean: average, sd } = found[kind][name];
        set(mean, { d: `M${B(average)} ${y - 9}v18` });
        set(words, { text: `${title}: ${number(average, 1)} ± ${number(sd, 1)}` });
      }
      const exact = { mean: slope(at.mean), sd: 2 * at.sd }; // E[loss] = (mean - 1.5)^2 + sd^2
      formula.innerHTML =
        `E[loss] = (μ − 1.5)² + σ² = ${number((at.mean - TARGET) ** 2 + at.sd ** 2)}; mean over the samples ${number(found.loss)}<br>` +
        `exact gradient: <span class="whole">∂/∂μ = 2(μ − 1.5) = <b class="e-b">${number(exact.mean)}</b></span>, ` +
        `<span class="whole">∂/∂σ = 2σ = <b class="e-b">${number(exact.sd)}</b></span>`;
      code.textContent =
        `z = mean + sd * eps  # mean ${at.mean.toFixed(2)}, sd ${at.sd.toFixed(2)}, eps fixed\n` +
        `((z - 1.5) ** 2).mean().backward()  # mean.grad ${found.path.mean.mean.toFixed(3)}, sd.grad ${found.path.sd.mean.toFixed(3)}`;
    }

    const slide = (key, label) =>
      slider({
        label,
        min: LIMITS[key][0],
        max: LIMITS[key][1],
        step: 0.01,
        value: at[key],
        format: (value) => number(value),
        onInput: (value) => {
          at[key] = value;
          draw();
        },
      });
    const sliders = { mean: slide("mean", "mean μ"), sd: slide("sd", "sd σ") };
    const go = (mean, sd) => {
      Object.assign(at, { mean: clamp(mean, ...LIMITS.mean), sd: clamp(sd, ...LIMITS.sd) });
      for (const key of ["mean", "sd"]) sliders[key].set(at[key]);
      draw();
    };
    const playing = player({
      onStep: () => {
        const { path } = gradients(at.mean, at.sd, noise, loss, slope);
        go(at.mean - 0.05 * path.mean.mean, at.sd - 0.05 * path.sd.mean);
        return Math.abs(path.mean.mean) > 0.02;
      },
      onReset: () => go(-1, 1),
      interval: () => 120,
      step: "Gradient step",
    });
    playing.node.append(
      button("New noise", () => {
        seed += 1;
        sample();
        draw();
      }),
    );
    root.append(
      el(
        "div",
        { class: "e-panels" },
        panel("z = μ + σ ε, with steps downhill", axes.node),
        panel("Two estimates of the same gradient", bars),
      ),
      playing.node,
      el("div", { class: "e-controls" }, sliders.mean.node, sliders.sd.node),
      formula,
      code,
    );
    draw();
  });
})();
