// The exported graphs, run by onnxruntime-web on one thread. Nothing is requested: script, WebAssembly and graphs are in
// the page.
import { takePart } from "./bytes.js";

const ARRAYS = { uint8: Uint8Array, bool: Uint8Array, float32: Float32Array, int64: BigInt64Array };

export class Engine {
  // graphs: inputs and outputs of each graph, by name. imageShape: (C, H, W).
  constructor(graphs, imageShape) {
    this.graphs = graphs;
    this.axes = { batch: 1, height: imageShape[1], width: imageShape[2] };
    this.sessions = {};
    this.last = Promise.resolve(); // a session runs one call at a time
  }

  async open() {
    const [script, binary] = await Promise.all([takePart("ort-script"), takePart("ort-binary")]);
    const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    this.ort = await import(address);
    URL.revokeObjectURL(address);
    this.ort.env.wasm.numThreads = 1;
    this.ort.env.wasm.wasmBinary = binary;
    this.ort.env.logLevel = "error";
    for (const name of Object.keys(this.graphs)) {
      const graph = await takePart(`graph-${name}`);
      this.sessions[name] = await this.ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
    }
  }

  has(name, input) {
    return this.graphs[name].inputs.some((one) => one.name === input);
  }

  // Runs a graph on arrays by name, each with all its axes flat, and returns the outputs and their sizes by name.
  run(name, inputs, batch = 1) {
    const call = this.last.then(() => this.call(name, inputs, batch));
    this.last = call.catch(() => undefined);
    return call;
  }

  async call(name, inputs, batch) {
    const feeds = {};
    for (const { name: input, dtype, shape } of this.graphs[name].inputs) {
      const values = inputs[input];
      const array = values instanceof ARRAYS[dtype] ? values : ARRAYS[dtype].from(values, dtype === "int64" ? BigInt : Number);
      feeds[input] = new this.ort.Tensor(dtype, array, sizes(shape, array.length, { ...this.axes, batch }));
    }
    const start = performance.now();
    const found = await this.sessions[name].run(feeds);
    const milliseconds = performance.now() - start;
    const outputs = {};
    for (const [output, tensor] of Object.entries(found)) outputs[output] = { data: tensor.data, dims: tensor.dims };
    return { outputs, milliseconds };
  }
}

// The extents of the axes; one without a known extent has what is left of the length.
function sizes(shape, length, axes) {
  const known = shape.map((axis) => axes[axis] ?? axis);
  const rest = known.reduce((product, axis) => (typeof axis === "number" ? product * axis : product), 1);
  return known.map((axis) => (typeof axis === "number" ? axis : length / rest));
}

// Returns a function that calls another one with the newest arguments, one call after another; calls between are left out.
// A call that fails rejects its promise, unless newer arguments wait.
export function newestOnly(call) {
  let waiting = null;
  let running = null;
  async function loop() {
    try {
      while (waiting) {
        const words = waiting;
        waiting = null;
        await call(...words).catch((error) => {
          if (!waiting) throw error;
        });
      }
    } finally {
      running = null;
    }
  }
  return (...words) => {
    waiting = words;
    running ??= loop();
    return running;
  };
}
