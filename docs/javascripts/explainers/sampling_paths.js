// DDIM and ancestral sampling of a Gaussian mixture in the plane, with its exact score.
"use strict";
(() => {
  const { el, svg, set, number, slider, button, player, panel, clamp, mount } = explainers.ui;
  const { trace } = explainers.plot;
  const { linear, at } = explainers.schedules;
  const { timePairs, posterior, ddimStep, ancestralStep, path } = explainers.samplers;
  const { normal, uniform } = explainers.gaussians;

  const STEPS = 1000;
  const PARTICLES = 80;
  const SIDE = 300;
  const SPAN = 3; // the figures show [-3, 3] in both directions
  const MIXTURE = [
    { weight: 0.4, mean: [1.5, 0.8], sd: 0.15 },
    { weight: 0.35, mean: [-1.4, 1.0], sd: 0.2 },
    { weight: 0.25, mean: [0.2, -1.6], sd: 0.25 },
  ];
  const STYLES = ["a", "b", "c"];
  const ALPHA_BARS = linear(STEPS);

  const place = ([x, y]) => [(SIDE / 2) * (1 + x / SPAN), (SIDE / 2) * (1 - y / SPAN)];

  /** Mean log density of exact samples, the aim of a sampler. */
  function exactLogDensity(count = 4000) {
    const [pick, next] = [uniform(1), normal(2)];
    let sum = 0;
    for (let i = 0; i < count; i++) {
      let [k, u] = [0, pick()];
      while (k < MIXTURE.length - 1 && u >= MIXTURE[k].weight) u -= MIXTURE[k++].weight;
      const x = MIXTURE[k].mean.map((mean) => mean + MIXTURE[k].sd * next());
      sum += posterior(MIXTURE, x, 1, 0).logDensity;
    }
    return sum / count;
  }

  /** Figure of one sampler: rings of the mixture, paths and particles. */
  function plane(label) {
    const node = svg("svg", {
      viewBox: `0 0 ${SIDE} ${SIDE}`,
      role: "img",
      "aria-label": label,
      class: "e-scene e-clipped",
    });
    node.append(svg("rect", { width: SIDE, height: SIDE, class: "e-frame" }));
    const rings = MIXTURE.flatMap(({ sd }, k) =>
      [1, 2].map((radius) => {
        const ring = svg("circle", { class: `e-line e-thin e-stroke-${STYLES[k]} e-ring` });
        node.append(ring);
        return { ring, k, radius, sd };
      }),
    );
    const lines = Array.from({ length: PARTICLES }, () => svg("path", { class: "e-line e-path" }));
    const dots = Array.from({ length: PARTICLES }, () => svg("circle", { r: 2.6 }));
    node.append(...lines, ...dots);
    const words = el("p", { class: "e-note" });
    /** Show the paths up to a step; `scale` is (alpha, sigma) there. */
    const draw = (paths, shares, step, [alpha, sigma]) => {
      for (const { ring, k, radius, sd } of rings) {
        const [cx, cy] = place(MIXTURE[k].mean.map((mean) => alpha * mean));
        set(ring, { cx, cy, r: (radius * Math.hypot(alpha * sd, sigma) * SIDE) / (2 * SPAN) });
      }
      paths.forEach((points, i) => {
        const style = STYLES[shares[i].indexOf(Math.max(...shares[i]))];
        const shown = points.slice(0, step + 1).map(place);
        set(lines[i], { d: trace(shown), class: `e-line e-path e-stroke-${style}` });
        const [cx, cy] = shown[shown.length - 1];
        set(dots[i], { cx, cy, class: `e-fill-${style}` });
      });
    };
    return { node, words, draw };
  }

  mount("sampling_paths", (root) => {
    const exact = exactLogDensity();
    let [steps, eta, seed, shown] = [20, 0, 1, 20];
    let runs = [];
    const samplers = [
      { figure: plane("Paths of DDIM"), step: (x, x0, now, before, noise) => ddimStep(x, x0, now, before, eta, noise) },
      { figure: plane("Paths of ancestral sampling"), step: ancestralStep },
    ];
    const code = el("code", { class: "e-code" });

    /** Run both samplers from the same noise. */
    function sample() {
      const pairs = timePairs(STEPS, steps);
      const start = normal(seed);
      const starts = Array.from({ length: PARTICLES }, () => [start(), start()]);
      runs = samplers.map(({ figure, step }) => {
        const next = normal(seed + 1000);
        const paths = starts.map((x) => path(MIXTURE, ALPHA_BARS, pairs, x, step, next));
        const ends = paths.map((points) => posterior(MIXTURE, points[points.length - 1], 1, 0));
        const shares = ends.map((end) => end.shares);
        const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
        const length = (points) =>
          points.slice(1).reduce((sum, [x, y], i) => sum + Math.hypot(x - points[i][0], y - points[i][1]), 0);
        const counts = STYLES.map((_, k) => shares.filter((share) => share[k] === Math.max(...share)).length);
        figure.words.innerHTML =
          `Ends: log p(x) ${number(mean(ends.map((end) => end.logDensity)))} (data ${number(exact)}).<br>` +
          `Length of a path: ${number(mean(paths.map(length)), 1)}. ` +
          `Per component: ${counts.map((count, k) => `<b class="e-${STYLES[k]}">${count}</b>`).join(", ")}.`;
        return { paths, shares };
      });
      progress.limit({ max: steps });
      code.textContent =
        `model.sample(${PARTICLES}, sampler="ddim", steps=${steps})  # model.sampling.eta ${number(eta)}\n` +
        `model.sample(${PARTICLES}, sampler="ancestral", steps=${steps})`;
      show(steps);
    }

    function show(step) {
      shown = clamp(step, 0, steps);
      progress.set(shown);
      const t = shown < steps ? timePairs(STEPS, steps)[shown][0] : -1;
      samplers.forEach(({ figure }, i) => figure.draw(runs[i].paths, runs[i].shares, shown, at(ALPHA_BARS, t)));
    }

    const rerun = (change) => (value) => {
      playing.stop();
      change(value);
      sample();
    };
    const steppers = slider({
      label: "steps",
      min: 1,
      max: 100,
      value: steps,
      onInput: rerun((value) => (steps = value)),
    });
    const etas = slider({
      label: "eta of DDIM",
      min: 0,
      max: 1,
      step: 0.05,
      value: eta,
      format: (value) => number(value),
      onInput: rerun((value) => (eta = value)),
    });
    const progress = slider({ label: "step shown", min: 0, max: steps, value: steps, onInput: (value) => show(value) });
    const playing = player({
      onStep: () => {
        show(shown >= steps ? 0 : shown + Math.max(1, Math.round(steps / 50)));
        return shown < steps;
      },
      onReset: () => show(0),
      interval: () => clamp(3000 / steps, 60, 400),
    });
    const again = button(
      "New noise",
      rerun(() => (seed += 1)),
    );
    playing.node.append(again);
    const [ddim, ancestral] = samplers.map((one) => one.figure);
    root.append(
      el(
        "div",
        { class: "e-panels" },
        panel("DDIM", ddim.node, ddim.words),
        panel("Ancestral (DDPM)", ancestral.node, ancestral.words),
      ),
      playing.node,
      el("div", { class: "e-controls" }, progress.node, steppers.node, etas.node),
      code,
    );
    sample();
  });
})();
