// Opens the graphs and builds the page of their task. window.darkroom has ready, a promise, and run(...), which returns
// plain numbers.
import { autoencoderPage } from "./autoencoder.js";
import { readData } from "./bytes.js";
import { classificationPage } from "./classification.js";
import { detectionPage } from "./detection.js";
import { diffusionPage } from "./diffusion.js";
import { statusLine } from "./elements.js";
import { Engine } from "./engine.js";
import { generatorPage } from "./generator.js";
import { segmentationPage } from "./segmentation.js";

const PAGES = {
  autoencoder: autoencoderPage,
  classification: classificationPage,
  detection: detectionPage,
  diffusion: diffusionPage,
  generator: generatorPage,
  segmentation: segmentationPage,
};

async function openPage() {
  const data = readData();
  const status = statusLine();
  data.show = status.show;
  const place = document.getElementById("play");
  place.before(status);
  const fail = ({ reason }) => status.show(`The computation failed: ${reason.message}`);
  addEventListener("unhandledrejection", fail);
  try {
    const engine = new Engine(data.graphs, data.image_shape);
    const page = await PAGES[data.kind](engine, data, status);
    place.append(...page.panels);
    const start = performance.now();
    await engine.open();
    const opened = performance.now() - start;
    await page.first();
    return { run: page.run, opened, first: performance.now() };
  } catch (error) {
    removeEventListener("unhandledrejection", fail); // of the error that is thrown again
    status.show(`The model cannot be run: ${error.message}`);
    throw error;
  }
}

const ready = openPage();
window.darkroom = { ready, run: async (...words) => (await ready).run(...words) };
