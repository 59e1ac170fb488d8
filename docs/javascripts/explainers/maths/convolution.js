// Arithmetic of convolutions and transposed convolutions on square maps.
"use strict";
(() => {
  /** Output side of a convolution: floor((n + 2p - d(k - 1) - 1) / s) + 1; below 1 where the kernel does not fit. */
  function outputSize({ size, kernel, stride = 1, padding = 0, dilation = 1 }) {
    return Math.floor((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1;
  }

  /** Output side of a transposed convolution: (n - 1)s - 2p + d(k - 1) + output_padding + 1. */
  function transposedSize({ size, kernel, stride = 1, padding = 0, dilation = 1, outputPadding = 0 }) {
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + outputPadding + 1;
  }

  /**
   * One axis of a layer as a window that slides over slots.
   *
   * A slot is the index of an input cell, or -1: a zero of the padding, or one between the cells of a transposed
   * convolution. Output cell o reads slots step * o + dilation * i, for tap i of the window. A transposed convolution
   * reads with the taps in reverse order.
   */
  function axis({ size, kernel, stride = 1, padding = 0, dilation = 1, transposed = false }) {
    const border = transposed ? dilation * (kernel - 1) - padding : padding;
    const between = transposed ? stride - 1 : 0;
    const zeros = (count) => Array(Math.max(0, count)).fill(-1);
    const cells = Array.from({ length: size }, (_, i) => (i ? [...zeros(between), i] : [i])).flat();
    const slots = [...zeros(border), ...cells, ...zeros(border)];
    const out = (transposed ? transposedSize : outputSize)({ size, kernel, stride, padding, dilation });
    const step = transposed ? 1 : stride;
    const reads = (output) => Array.from({ length: kernel }, (_, i) => step * output + dilation * i);
    return { slots, out, step, reads, border };
  }

  /** Weight of tap (i, j) in the window: of the kernel, flipped along both axes for a transposed convolution. */
  function windowWeight(kernel, i, j, transposed) {
    const last = kernel.length - 1;
    return transposed ? kernel[last - i][last - j] : kernel[i][j];
  }

  /** Convolution of a square map by a square kernel, as lists of rows; transposed if the setting says so. */
  function convolve(input, kernel, setting) {
    const { slots, out, reads } = axis({ ...setting, size: input.length, kernel: kernel.length });
    const rows = Array.from({ length: Math.max(0, out) }, (_, o) => reads(o).map((slot) => slots[slot] ?? -1));
    return rows.map((ys) =>
      rows.map((xs) => {
        let sum = 0;
        ys.forEach((y, i) =>
          xs.forEach((x, j) => {
            if (y >= 0 && x >= 0) sum += input[y][x] * windowWeight(kernel, i, j, setting.transposed);
          }),
        );
        return sum;
      }),
    );
  }

  /** y[k] = sum over c of weight[k][c] * x[c]: a Linear layer, or a 1 x 1 convolution at one pixel. */
  function linear(weight, x) {
    return weight.map((row) => row.reduce((sum, w, c) => sum + w * x[c], 0));
  }

  /** Weights of bilinear interpolation by `stride` along one axis: a tent of `size` taps, as in FCN. */
  function bilinearKernel(size, stride) {
    return Array.from({ length: size }, (_, i) => Math.max(0, 1 - Math.abs(i - (size - 1) / 2) / stride));
  }

  /** Transposed convolution of a signal: every value adds its multiple of the kernel to the output. */
  function upsample(signal, kernel, stride) {
    const out = Array(stride * (signal.length - 1) + kernel.length).fill(0);
    signal.forEach((value, i) => kernel.forEach((weight, k) => (out[stride * i + k] += value * weight)));
    return out;
  }

  globalThis.explainers = Object.assign(globalThis.explainers ?? {}, {
    convolution: { outputSize, transposedSize, axis, windowWeight, convolve, linear, bilinearKernel, upsample },
  });
})();
