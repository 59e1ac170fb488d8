// A Linear layer as a 1 x 1 convolution: one matrix, applied at every pixel.
"use strict";
(() => {
  const { el, svg, set, panel, clamp, follow, mount, ARROWS } = explainers.ui;
  const { linear } = explainers.convolution;

  const SIDE = 4;
  const CELL = 22;
  const WEIGHT = [
    [1, 0, -1],
    [2, 1, 1],
  ];
  const X = Array.from({ length: 3 }, (_, c) =>
    Array.from({ length: SIDE }, (_, i) => Array.from({ length: SIDE }, (_, j) => (c + 2 * i + j * (c + 1)) % 4)),
  );
  const minus = (value) => String(value).replace("-", "−");

  mount("linear_convolution", (root) => {
    const at = { row: 1, column: 2 };
    const pixel = (row, column) => X.map((channel) => channel[row][column]);
    const outputs = WEIGHT.map((_, k) => X[0].map((line, i) => line.map((_, j) => linear(WEIGHT, pixel(i, j))[k])));

    /** Channels of a map side by side; the chosen pixel is marked in each. */
    function maps(channels, label, style) {
      const gap = 12;
      const width = X.length * (SIDE * CELL + gap) - gap; // the output's cells are as large as the input's
      const node = svg("svg", { class: "e-map", role: "application", tabindex: 0, "aria-label": label });
      set(node, { viewBox: `0 0 ${width} ${SIDE * CELL}` });
      const cells = channels.flatMap((channel, c) =>
        channel.flatMap((line, row) =>
          line.map((value, column) => {
            const x = c * (SIDE * CELL + gap) + column * CELL;
            const box = svg("rect", { x: x + 1, y: row * CELL + 1, width: CELL - 2, height: CELL - 2, rx: 2 });
            const content = svg("text", {
              x: x + CELL / 2,
              y: row * CELL + CELL / 2 + 4,
              "text-anchor": "middle",
              text: minus(value),
            });
            const group = svg("g", {}, box, content);
            node.append(group);
            return { group, row, column };
          }),
        ),
      );
      follow(node, (x, y) => {
        const column = Math.floor((x % (SIDE * CELL + gap)) / CELL);
        move(Math.floor(y / CELL), column);
      });
      node.addEventListener("keydown", (event) => {
        if (!ARROWS[event.key]) return;
        event.preventDefault();
        move(at.row + ARROWS[event.key][1], at.column + ARROWS[event.key][0]);
      });
      const mark = () => {
        for (const cell of cells) {
          const here = cell.row === at.row && cell.column === at.column;
          set(cell.group, { class: here ? `${style} e-chosen` : "" });
        }
      };
      return { node, mark };
    }

    const input = maps(X, "Input of three channels. Arrow keys choose a pixel.", "e-read");
    const output = maps(outputs, "Output of two channels. Arrow keys choose a pixel.", "e-write");
    const sum = el("p", { class: "e-formula", role: "status" });
    const code = el("code", {
      class: "e-code",
      text:
        "linear, conv = nn.Linear(3, 2), nn.Conv2d(3, 2, kernel_size=1)\n" +
        "conv.load_state_dict({'weight': linear.weight[:, :, None, None], 'bias': linear.bias})\n" +
        "torch.allclose(conv(x), linear(x.movedim(1, -1)).movedim(-1, 1), atol=1e-6)  # True",
    });

    function move(row, column) {
      Object.assign(at, { row: clamp(row, 0, SIDE - 1), column: clamp(column, 0, SIDE - 1) });
      draw();
    }

    function draw() {
      input.mark();
      output.mark();
      const x = pixel(at.row, at.column);
      const rows = WEIGHT.map((weights) => `(${weights.map(minus).join(", ")})`).join(", ");
      const products = WEIGHT.map((weights) => weights.map((w, c) => `${minus(w)}·${x[c]}`).join(" + "));
      const y = linear(WEIGHT, x);
      sum.innerHTML =
        `W = (${rows}), x = <span class="e-a">(${x.join(", ")})</span><br>` +
        y.map((value, k) => `y<sub>${k}</sub> = ${products[k]} = <b class="e-c">${minus(value)}</b>`).join("<br>");
    }

    root.append(
      el(
        "div",
        { class: "e-panels" },
        panel("Input x: 3 channels", input.node),
        panel("Output y = W x: 2 channels", output.node),
      ),
      sum,
      code,
    );
    draw();
  });
})();
