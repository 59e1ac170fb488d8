// Noise schedules, and an image noised to any time by each of them.
"use strict";
(() => {
  const { el, svg, set, number, slider, player, draggable, panel, clamp, mount } = explainers.ui;
  const { plot, range } = explainers.plot;
  const { linear, cosine, zeroTerminal, logSNR } = explainers.schedules;
  const { normal } = explainers.gaussians;

  const STEPS = 1000;
  const SIDE = 48;
  const SCHEDULES = [
    { name: "linear", style: "a", alphaBars: linear(STEPS) },
    { name: "cosine", style: "b", alphaBars: cosine(STEPS) },
    { name: "linear, zero terminal SNR", style: "c", alphaBars: zeroTerminal(linear(STEPS)) },
  ];
  const TICKS = [0, 250, 500, 750, 999];

  /** Image of a sun above hills, as red, green and blue in [-1, 1], row by row. */
  function draw() {
    const colour = (x, y) => {
      if ((x - 0.68) ** 2 + (y - 0.3) ** 2 < 0.022) return [1, 0.75, -0.3];
      if (y > 0.72 + 0.1 * Math.sin(5 * x + 1)) return [-0.75, -0.1 - 0.4 * (y - 0.7), -0.6];
      if (y > 0.58 + 0.14 * Math.sin(7 * x - 1.2)) return [-0.35, 0.3, -0.45];
      return [-0.1 + 0.5 * y, 0.35 + 0.4 * y, 0.95 - 0.1 * y];
    };
    const places = range(0.5 / SIDE, 1 - 0.5 / SIDE, SIDE);
    return places.flatMap((y) => places.flatMap((x) => colour(x, y)));
  }

  mount("noise_schedules", (root) => {
    const image = draw();
    const next = normal(7);
    const noise = image.map(next); // the same at all times
    let t = 300;

    const common = { x: [0, STEPS - 1], xTicks: TICKS, xLabel: "time t" };
    const kept = plot({
      ...common,
      label: "Alpha-bar by time",
      y: [0, 1],
      yTicks: [0, 0.25, 0.5, 0.75, 1],
      yLabel: "ᾱ: variance kept of the image",
    });
    const snr = plot({
      ...common,
      label: "Log SNR by time",
      y: [-12, 10],
      yTicks: [-10, -5, 0, 5, 10],
      yLabel: "log SNR = log(ᾱ / (1 − ᾱ))",
    });
    const cursors = [
      [kept, (alphaBar) => alphaBar],
      [snr, (alphaBar) => clamp(logSNR(alphaBar), -12, 10)],
    ].map(([axes, of]) => {
      for (const { style, alphaBars } of SCHEDULES)
        axes
          .line(`e-stroke-${style}${style === "c" ? " e-dashed" : ""}`)
          .to(alphaBars.map((alphaBar, i) => [i, of(alphaBar)]));
      const dots = SCHEDULES.map(({ style }) => svg("circle", { r: 4, class: `e-fill-${style}` }));
      const grip = svg("rect", {
        x: -14,
        y: axes.frame.top,
        width: 28,
        height: axes.frame.bottom - axes.frame.top,
        class: "e-reach",
      });
      const rule = svg("path", { class: "e-axis", d: `M0 ${axes.frame.top}V${axes.frame.bottom}` });
      const cursor = svg("g", {}, grip, rule);
      axes.node.append(...dots, cursor);
      const say = draggable(cursor, {
        label: "Time",
        get: () => [axes.X(t), 0],
        move: (x) => go(Math.round(axes.fromX(x))),
        describe: () => `t = ${t}`,
        step: axes.X(10) - axes.X(0),
      });
      const show = () => {
        set(cursor, { transform: `translate(${axes.X(t)} 0)` });
        dots.forEach((dot, i) => set(dot, { cx: axes.X(t), cy: axes.Y(of(SCHEDULES[i].alphaBars[t])) }));
        say();
      };
      return show;
    });

    const pictures = SCHEDULES.map(({ name, style, alphaBars }) => {
      const canvas = el("canvas", { width: SIDE, height: SIDE, class: "e-pixels", role: "img" });
      const context = canvas.getContext("2d");
      const pixels = context.createImageData(SIDE, SIDE);
      const words = el("p", { class: "e-note" });
      const show = () => {
        const [alpha, sigma] = [Math.sqrt(alphaBars[t]), Math.sqrt(1 - alphaBars[t])];
        for (let i = 0; i < SIDE * SIDE; i++) {
          for (let c = 0; c < 3; c++) {
            const value = alpha * image[3 * i + c] + sigma * noise[3 * i + c]; // equation 4 of DDPM
            pixels.data[4 * i + c] = 127.5 * (clamp(value, -1, 1) + 1);
          }
          pixels.data[4 * i + 3] = 255;
        }
        context.putImageData(pixels, 0, 0);
        words.replaceChildren(
          el("span", { class: "whole", text: `${number(alpha, 4)} x₀` }),
          " ",
          el("span", { class: "whole", text: `+ ${number(sigma, 4)} ε` }),
        );
        set(canvas, { "aria-label": `Image at time ${t} of the ${name} schedule: ${words.textContent}` });
      };
      const caption = el("span", { class: `e-${style}`, text: name });
      return { node: panel(caption, canvas, words), show };
    });

    const time = slider({ label: "time t", min: 0, max: STEPS - 1, value: t, onInput: (value) => go(value, false) });
    const code = el("code", { class: "e-code" });
    const playing = player({
      onStep: () => {
        go(t >= STEPS - 1 ? 0 : Math.min(STEPS - 1, t + 10));
        return t < STEPS - 1;
      },
      onReset: () => go(0),
      interval: () => 40,
      step: "Step of 10",
    });

    function go(value, move = true) {
      t = clamp(value, 0, STEPS - 1);
      if (move) time.set(t);
      for (const show of cursors) show();
      for (const one of pictures) one.show();
      code.textContent =
        `LinearSchedule(1000).at(${t})  # alpha ${Math.sqrt(SCHEDULES[0].alphaBars[t]).toFixed(4)}, ` +
        `sigma ${Math.sqrt(1 - SCHEDULES[0].alphaBars[t]).toFixed(4)}\n` +
        `CosineSchedule(1000).add_noise(x, torch.randn_like(x), torch.tensor([${t}]))\n` +
        `ZeroTerminalSNR(LinearSchedule(1000)).at(${t})[0] ** 2  # alpha-bar ${SCHEDULES[2].alphaBars[t].toPrecision(4)}`;
    }

    root.append(
      el("div", { class: "e-panels e-three" }, ...pictures.map((one) => one.node)),
      time.node,
      playing.node,
      el(
        "div",
        { class: "e-panels" },
        panel("Signal that is left", kept.node),
        panel("Signal-to-noise ratio", snr.node),
      ),
      code,
    );
    go(t);
  });
})();
