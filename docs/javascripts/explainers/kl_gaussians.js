// KL divergence of two normal distributions, forward and reverse, with its integrand.
"use strict";
(() => {
  const { el, svg, set, number, slider, button, choice, draggable, knob, panel, clamp, mount } = explainers.ui;
  const { plot, range } = explainers.plot;
  const { density, kl, klIntegrand } = explainers.gaussians;

  const GRID = range(-5, 5, 401);
  const TOP = 1.15; // the highest density
  const LIMITS = { mean: [-3, 3], sd: [0.35, 2.5] };

  mount("kl_gaussians", (root) => {
    const start = { q: { mean: 1.2, sd: 0.6 }, p: { mean: 0, sd: 1 } };
    const both = { q: { ...start.q }, p: { ...start.p } };
    let direction = "reverse";
    const ticks = [-4, -2, 0, 2, 4];
    const top = plot({
      label: "Densities q and p, with handles",
      x: [-5, 5],
      y: [0, TOP],
      xTicks: ticks,
      yTicks: [0, 0.5, 1],
      xLabel: "x",
      yLabel: "density",
    });
    const low = plot({
      label: "Integrand of the divergence",
      x: [-5, 5],
      y: [-0.6, 1.6],
      xTicks: ticks,
      yTicks: [-0.5, 0, 0.5, 1, 1.5],
      xLabel: "x",
      yLabel: "integrand, cut at 1.6",
    });
    const zero = low.line("e-thin e-stroke-muted");
    zero.to([
      [-5, 0],
      [5, 0],
    ]);
    const surplus = svg("path", { class: "e-fill-c e-soft" });
    low.node.append(surplus);
    const integrand = low.line("e-stroke-c");
    const styles = { q: "a", p: "b" };
    const sliders = {};
    const parts = Object.entries(both).map(([name, one]) => {
      const line = top.line(`e-stroke-${styles[name]}`);
      const [peak, side] = [knob(`e-stroke-${styles[name]}`), knob(`e-stroke-${styles[name]}`)];
      const word = svg("text", { text: name, class: "e-name", "text-anchor": "middle" });
      const arm = svg("path", { class: `e-line e-thin e-dashed e-stroke-${styles[name]}` });
      top.node.append(arm, word, peak, side);
      const at = (x) => [top.X(x), top.Y(Math.min(TOP, density(x, one.mean, one.sd)))];
      const change = (key) => (value) => {
        one[key] = clamp(value, ...LIMITS[key]);
        draw();
      };
      const move = draggable(peak, {
        label: `Mean of ${name}`,
        get: () => at(one.mean),
        move: (x) => change("mean")(top.fromX(x)),
        describe: () => number(one.mean),
        step: top.X(0.1) - top.X(0),
      });
      const widen = draggable(side, {
        label: `Standard deviation of ${name}`,
        get: () => at(one.mean + one.sd),
        move: (x) => change("sd")(top.fromX(x) - one.mean),
        describe: () => number(one.sd),
        step: top.X(0.1) - top.X(0),
      });
      const slide = (key, label) =>
        (sliders[name + key] = slider({
          label,
          min: LIMITS[key][0],
          max: LIMITS[key][1],
          step: 0.05,
          value: one[key],
          format: (value) => number(value),
          onInput: change(key),
        }));
      slide("mean", `mean of ${name}`);
      slide("sd", `sd of ${name}`);
      return () => {
        line.to(GRID.map((x) => [x, Math.min(TOP, density(x, one.mean, one.sd))]));
        const [[px, py], [sx, sy]] = [at(one.mean), at(one.mean + one.sd)];
        set(peak, { transform: `translate(${px} ${py})` });
        set(side, { transform: `translate(${sx} ${sy})` });
        set(arm, { d: `M${px} ${sy}H${sx}` });
        set(word, { x: px, y: py + (py > 28 ? -10 : 20) });
        sliders[`${name}mean`].set(one.mean);
        sliders[`${name}sd`].set(one.sd);
        move();
        widen();
      };
    });
    const formula = el("p", { class: "e-formula", role: "status" });
    const code = el("code", { class: "e-code" });

    function draw() {
      for (const show of parts) show();
      const [from, to] = direction === "reverse" ? [both.q, both.p] : [both.p, both.q];
      const values = GRID.map((x) => [x, clamp(klIntegrand(x, from, to), -0.6, 1.6)]);
      integrand.to(values);
      set(surplus, { d: `M${[[-5, 0], ...values, [5, 0]].map(([x, y]) => `${low.X(x)} ${low.Y(y)}`).join("L")}Z` });
      const { q, p } = both;
      const terms = (a, b) =>
        `log ${number(b.sd)}/${number(a.sd)} + (${number(a.sd)}² + ${number(Math.abs(a.mean - b.mean))}²) / (2 · ${number(b.sd)}²) − ½`;
      const chosen = (key) => (direction === key ? ' class="e-c"' : "");
      formula.innerHTML =
        `reverse KL(q‖p) = ${terms(q, p)} = <b${chosen("reverse")}>${number(kl(q, p), 3)}</b> nats<br>` +
        `forward KL(p‖q) = ${terms(p, q)} = <b${chosen("forward")}>${number(kl(p, q), 3)}</b> nats`;
      const normal = (one) => `Normal(${one.mean.toFixed(2)}, ${one.sd.toFixed(2)})`;
      const standard = p.mean === 0 && p.sd === 1;
      code.textContent =
        `torch.distributions.kl_divergence(${normal(from)}, ${normal(to)})` +
        (standard
          ? `\nvae.kl_divergence(torch.tensor(${q.mean.toFixed(2)}), 2 * torch.tensor(${q.sd.toFixed(2)}).log())  # KL(q || N(0, 1))`
          : "");
    }

    const directions = choice({
      label: "Integrand",
      options: { reverse: "KL(q‖p): x from q", forward: "KL(p‖q): x from p" },
      value: direction,
      onChange: (key) => {
        direction = key;
        draw();
      },
    });
    const take = (q, p) => () => {
      Object.assign(both.q, q);
      Object.assign(both.p, p);
      draw();
    };
    const buttons = el(
      "div",
      { class: "e-buttons" },
      button("Narrow q in wide p", take({ mean: 0, sd: 0.4 }, { mean: 0, sd: 1.6 })),
      button("Wide q over narrow p", take({ mean: 0, sd: 1.6 }, { mean: 0, sd: 0.4 })),
      button("Posterior and prior", take(start.q, start.p)),
    );
    root.append(
      directions,
      el(
        "div",
        { class: "e-panels" },
        panel("Densities: drag peaks and widths", top.node),
        panel("Integrand: its area is the divergence", low.node),
      ),
      formula,
      buttons,
      el("div", { class: "e-controls" }, ...Object.values(sliders).map((one) => one.node)),
      code,
    );
    draw();
  });
})();
