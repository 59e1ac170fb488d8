// Convolution arithmetic: which input cells an output cell reads, and the size of the output.
"use strict";
(() => {
  const { el, svg, set, slider, choice, player, panel, clamp, follow, mount, ARROWS } = explainers.ui;
  const { axis, windowWeight, convolve } = explainers.convolution;

  const CELL = 24;
  const KERNEL = (side) =>
    Array.from({ length: side }, (_, i) => Array.from({ length: side }, (_, j) => (2 * i + j + 1) % 3));
  const INPUT = (side) =>
    Array.from({ length: side }, (_, i) => Array.from({ length: side }, (_, j) => (3 * i + 2 * j + i * j + 1) % 4));

  const setting = { transposed: false, size: 5, kernel: 3, stride: 2, padding: 1, dilation: 1 };
  const chosen = { side: "output", row: 0, column: 0 };

  /** Square map whose cells can be chosen by pointer and arrow keys; `onChoose(row, column)`. */
  function map(label, onChoose) {
    const node = svg("svg", { class: "e-map", role: "application", tabindex: 0, "aria-label": label });
    let cells = [];
    follow(node, (x, y) => {
      onChoose(clamp(Math.floor(y / CELL), 0, cells.length - 1), clamp(Math.floor(x / CELL), 0, cells.length - 1));
    });
    /** Draw cells [row][column] of { value, zero, weight, style }; `extent` is the side of the drawing in cells. */
    const draw = (rows, extent) => {
      if (cells.length !== rows.length) {
        cells = rows.map((row, i) =>
          row.map((_, j) => {
            const [x, y] = [j * CELL, i * CELL];
            const value = svg("text", { x: x + CELL / 2, y: y + CELL / 2 + 4, "text-anchor": "middle" });
            const weight = svg("text", { x: x + CELL - 2, y: y + CELL - 3, "text-anchor": "end", class: "e-weight" });
            const box = svg("rect", { x: x + 1, y: y + 1, width: CELL - 2, height: CELL - 2, rx: 2 });
            const group = svg("g", {}, box, value, weight);
            return { group, value, weight };
          }),
        );
        node.replaceChildren(...cells.flat().map((cell) => cell.group));
      }
      set(node, { viewBox: `0 0 ${extent * CELL} ${extent * CELL}` });
      rows.forEach((row, i) =>
        row.forEach(({ value, weight = "", style = "" }, j) => {
          set(cells[i][j].group, { class: style });
          set(cells[i][j].value, { text: value });
          set(cells[i][j].weight, { text: weight });
        }),
      );
    };
    return { node, draw };
  }

  mount("convolution_arithmetic", (root) => {
    const chooseInput = (row, column) => choose("input", row, column);
    const chooseOutput = (row, column) => choose("output", row, column);
    const input = map("Input map. Arrow keys choose a cell and show the output cells that read it.", chooseInput);
    const output = map("Output map. Arrow keys choose a cell and show the input cells that it reads.", chooseOutput);
    const captions = { input: el("span"), output: el("span") };
    const formula = el("p", { class: "e-formula" });
    const code = el("code", { class: "e-code" });
    const status = el("p", { class: "e-note e-lines-2", role: "status" });

    const slide = (name, min, max) =>
      slider({
        label: {
          size: "input n",
          kernel: "kernel k",
          stride: "stride s",
          padding: "padding p",
          dilation: "dilation d",
        }[name],
        min,
        max,
        value: setting[name],
        onInput: (value) => {
          setting[name] = value;
          fit();
        },
      });
    const sliders = {
      size: slide("size", 2, 8),
      kernel: slide("kernel", 1, 5),
      stride: slide("stride", 1, 4),
      padding: slide("padding", 0, 4),
      dilation: slide("dilation", 1, 3),
    };

    /** Keep the setting within what a layer allows, then draw. */
    function fit() {
      const most = setting.transposed ? { size: 4, stride: 3, dilation: 2 } : { size: 8, stride: 4, dilation: 3 };
      const reach = Math.min(setting.dilation, most.dilation) * (setting.kernel - 1);
      most.padding = setting.transposed ? Math.min(4, reach) : 4; // a larger one would crop the input
      for (const [name, max] of Object.entries(most)) {
        setting[name] = Math.min(setting[name], max);
        sliders[name].limit({ max });
        sliders[name].set(setting[name]);
      }
      Object.assign(chosen, { side: "output", row: 0, column: 0 });
      draw();
    }

    function choose(side, row, column) {
      playing.stop();
      Object.assign(chosen, { side, row, column });
      draw();
    }

    function draw() {
      const { transposed, stride, padding, kernel: side, size, dilation } = setting;
      const { slots, out, reads } = axis(setting);
      const kernel = KERNEL(side);
      const values = INPUT(size);
      const result = out > 0 ? convolve(values, kernel, setting) : [];
      const cellOf = (list) => list.map((o) => reads(o)); // slots of each output row or column
      const windows = cellOf(Array.from({ length: Math.max(0, out) }, (_, o) => o));
      const ofOutput = chosen.side === "output" && out > 0;
      const row = Math.min(chosen.row, (ofOutput ? out : slots.length) - 1);
      const column = Math.min(chosen.column, (ofOutput ? out : slots.length) - 1);
      const rows = slots.map((i, y) =>
        slots.map((j, x) => {
          const zero = i < 0 || j < 0;
          const cell = { value: zero ? 0 : values[i][j], style: zero ? "e-zero" : "" };
          if (ofOutput) {
            const [a, b] = [windows[row].indexOf(y), windows[column].indexOf(x)];
            if (a >= 0 && b >= 0) {
              cell.weight = windowWeight(kernel, a, b, transposed);
              cell.style += " e-read";
            }
          } else if (y === row && x === column) cell.style += " e-read e-chosen";
          return cell;
        }),
      );
      const outputs = result.map((line, y) =>
        line.map((value, x) => {
          const cell = { value, style: "" };
          if (ofOutput) cell.style = y === row && x === column ? "e-write e-chosen" : "";
          else if (windows[y].includes(row) && windows[x].includes(column)) {
            const [a, b] = [windows[y].indexOf(row), windows[x].indexOf(column)];
            cell.weight = windowWeight(kernel, a, b, transposed);
            cell.style = "e-write";
          }
          return cell;
        }),
      );
      const extent = Math.max(slots.length, out, 7);
      input.draw(rows, extent);
      output.draw(outputs, extent);
      captions.input.textContent =
        `Input ${size} × ${size}` + (slots.length > size ? `, with zeros ${slots.length} × ${slots.length}` : "");
      captions.output.textContent = out > 0 ? `Output ${out} × ${out}` : "No output";
      const counted = out > 0 ? `<b class="e-c">${out}</b>` : `<b class="e-b">${out}</b>`;
      formula.innerHTML = transposed
        ? `(n − 1)·s − 2p + d·(k − 1) + 1<br>= (${size} − 1)·${stride} − 2·${padding} + ${dilation}·(${side} − 1) + 1 = ${counted}`
        : `⌊(n + 2p − d·(k − 1) − 1) / s⌋ + 1<br>= ⌊(${size} + 2·${padding} − ${dilation}·(${side} − 1) − 1) / ${stride}⌋ + 1 = ${counted}`;
      const layer = transposed ? "ConvTranspose2d" : "Conv2d";
      const shape = out > 0 ? `(1, 1, ${out}, ${out})` : "error: the kernel is larger than the padded input";
      code.textContent =
        `layer = nn.${layer}(1, 1, kernel_size=${side}, stride=${stride}, padding=${padding}, dilation=${dilation}, bias=False)\n` +
        `layer(torch.zeros(1, 1, ${size}, ${size}))  # ${shape}`;
      status.textContent = describe(ofOutput, row, column, rows, outputs, out);
    }

    function describe(ofOutput, row, column, rows, outputs, out) {
      if (out < 1) return "The kernel spans more cells than the padded input has: make it smaller, or pad more.";
      if (ofOutput) {
        const read = rows.flat().filter((cell) => cell.weight !== undefined);
        const zeros = read.filter((cell) => cell.style.includes("e-zero")).length;
        const sum = read.filter((cell) => cell.value && cell.weight).map((cell) => `${cell.value}·${cell.weight}`);
        const terms =
          sum.length > 9
            ? `${sum.length} products that are not 0 add up to `
            : sum.length
              ? `${sum.join(" + ")} = `
              : "";
        return `Output cell (${row}, ${column}) reads ${read.length} cells, ${zeros} of them zeros: ${terms}${outputs[row][column].value}.`;
      }
      const count = outputs.flat().filter((cell) => cell.weight !== undefined).length;
      const kind = rows[row][column].style.includes("e-zero") ? "Zero" : "Input cell";
      return `${kind} at (${row}, ${column}) is read by ${count} output cell${count === 1 ? "" : "s"}, with the weights in orange.`;
    }

    /** Advance to the next output cell, row by row. */
    function advance() {
      const { out } = axis(setting);
      if (out < 1) return false;
      const next = chosen.side === "output" ? chosen.row * out + chosen.column + 1 : 0;
      const place = next % out ** 2;
      Object.assign(chosen, { side: "output", row: Math.floor(place / out), column: place % out });
      draw();
      return place < out ** 2 - 1;
    }

    for (const [side, figure] of Object.entries({ input, output }))
      figure.node.addEventListener("keydown", (event) => {
        const arrow = ARROWS[event.key];
        if (!arrow) return;
        event.preventDefault();
        const { slots, out } = axis(setting);
        const last = (side === "input" ? slots.length : out) - 1;
        const from = chosen.side === side ? chosen : { row: 0, column: 0 };
        if (last >= 0) choose(side, clamp(from.row + arrow[1], 0, last), clamp(from.column + arrow[0], 0, last));
      });

    const playing = player({ onStep: advance, onReset: () => choose("output", 0, 0), interval: () => 450 });
    const kinds = choice({
      label: "Layer",
      options: { convolution: "convolution", transposed: "transposed convolution" },
      value: "convolution",
      onChange: (kind) => {
        setting.transposed = kind === "transposed";
        setting.size = setting.transposed ? 3 : 5;
        fit();
      },
    });
    root.append(
      kinds,
      el("div", { class: "e-panels" }, panel(captions.input, input.node), panel(captions.output, output.node)),
      playing.node,
      status,
      el("div", { class: "e-controls" }, ...Object.values(sliders).map((one) => one.node)),
      formula,
      code,
    );
    fit();
  });
})();
