// Captions: their words as indices of the vocabulary, their embeddings, and maps of the attention to each word.
import { choice, element, field, note, widePanel } from "./elements.js";
import { blendHeat, largestOf, paint, picture } from "./pixels.js";

const DARK = 0.25; // fraction of the strongest word, below which maps stay darker

// Returns the words of a caption with their indices, as LearnedTextEncoder splits them; 0: not in the vocabulary.
export function readWords(caption, { words: vocabulary, max_length: most }) {
  const found = caption.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [];
  return found.slice(0, most).map((word) => ({ word, index: vocabulary.indexOf(word) + 1 }));
}

async function embed(engine, words) {
  const indices = words.length ? words.map(({ index }) => index) : [-1]; // one token of padding
  const { outputs } = await engine.run("text", { words: indices });
  return { text: outputs.text.data, text_mask: outputs.text_mask.data };
}

// Returns the mean of the attention over evaluations, and for each word its map as values in [0, 1].
export function heatOfWords(frames, count, size) {
  const mean = new Float32Array(count * size);
  for (const { attention } of frames) attention.forEach((value, index) => { mean[index] += value / frames.length; });
  const all = largestOf(mean);
  return Array.from({ length: count }, (_, word) => {
    const map = mean.slice(word * size, (word + 1) * size);
    const strongest = Math.max(largestOf(map), DARK * all, 1e-12);
    return { map, heat: map.map((value) => value / strongest) };
  });
}

// The caption of a text-to-image model. Its members are those of the conditions in diffusion.js.
export function captionCondition(engine, data, onChange) {
  const { options } = data.graphs.text;
  const captions = [...new Set(data.examples.map(({ caption }) => caption))];
  const unknown = note("");
  const caption = field("Caption", captions[0], onChange);
  const examples = choice("Examples", captions, 0, (index) => { caption.set(captions[index]); onChange(); });
  const grid = element("div", { class: "words" });
  const [, height, width] = data.image_shape;
  const attends = data.graphs.denoiser.outputs.some(({ name }) => name === "attention");
  const explanation = note("Of sampler 1: how much every pixel attends to the word, a mean over attentions and over the evaluations up to the slider.");
  return {
    controls: [caption, examples, unknown],
    panels: attends ? [widePanel("Attention to each word", grid, explanation)] : [],
    encode: async (values) => {
      const found = readWords(values?.caption ?? caption.get(), options);
      const others = found.filter(({ index }) => index === 0).map(({ word }) => word);
      unknown.textContent = others.length ? `Not in the vocabulary of the training: ${others.join(", ")}` : "";
      return { words: found.map(({ word }) => word), inputs: await embed(engine, found) };
    },
    // pixels: of the sample; frames: with the attention of each evaluation.
    show: (pixels, words, frames) => {
      const seen = frames.filter(({ attention }) => attention);
      const heats = seen.length ? heatOfWords(seen, words.length, width * height) : [];
      grid.replaceChildren(
        ...words.slice(0, heats.length).map((word, index) => {
          const canvas = picture(`Attention to ${word}`, width, height);
          paint(canvas, blendHeat(pixels, heats[index].heat));
          return element("figure", {}, canvas, element("figcaption", {}, word));
        }),
      );
    },
    maps: (words, frames) => heatOfWords(frames, words.length, width * height).map(({ map }) => Array.from(map)),
  };
}
