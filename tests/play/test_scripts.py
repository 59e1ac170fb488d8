"""Scripts of the page without a browser: calls that fail, large images, and many classes."""

import json

import pytest

from darkroom.lightning_modules.diffusion.text.learned import split
from tests.play.javascript import evaluate, needs_node

pytestmark = needs_node

# A graph whose first class has the mean of the image as its probability; it takes several images in one call.
_ENGINE = """
const sizes = [];
const engine = {
  graphs: { model: { inputs: [{ shape: ["batch", 1, 8, 8] }] } },
  run: async (name, { image }, batch) => {
    sizes.push(image.length);
    const size = image.length / batch;
    const probabilities = Float32Array.from({ length: 2 * batch }, (_, index) => {
      const start = Math.floor(index / 2) * size;
      const mean = image.subarray(start, start + size).reduce((one, other) => one + other, 0) / size / 255;
      return index % 2 ? 1 - mean : mean;
    });
    return { outputs: { probabilities: { data: probabilities } }, milliseconds: 1 };
  },
};
"""


def test_call_after_a_failed_one_runs() -> None:
    body = """
    const call = newestOnly(async (value) => {
      if (value === "bad") throw new Error(value);
      results.push(value);
    });
    const results = [];
    const failed = await call("bad").then(() => false, () => true);
    await call("good");
    return { failed, results };
    """
    assert evaluate("engine", body) == {"failed": True, "results": ["good"]}


def test_failed_call_does_not_lose_newer_arguments() -> None:
    body = """
    const results = [];
    const call = newestOnly(async (value) => {
      await null;
      if (value === "bad") throw new Error(value);
      results.push(value);
    });
    await Promise.all([call("bad"), call("left out"), call("newest")]);
    return results;
    """
    assert evaluate("engine", body) == ["newest"]


@pytest.mark.parametrize("caption", ["A small red circle, left of a BLUE square!", "", "café 2 cats", "x_1 e\u0301"])
def test_captions_are_split_as_by_the_encoder(caption: str) -> None:
    known = {"words": ["red", "a"], "max_length": 8}
    body = f"return readWords({json.dumps(caption)}, {json.dumps(known)});"
    indices = {"red": 1, "a": 2}
    expected = [{"word": word, "index": indices.get(word, 0)} for word in split(caption)[:8]]
    assert evaluate("captions", body) == expected


def test_attention_is_relative_to_the_strongest_word() -> None:
    frames = "[{ attention: [0.8, 0, 0.02, 0.01] }, { attention: [0.8, 0, 0.02, 0.03] }]"
    body = f"return heatOfWords({frames}, 2, 2).map(({{ heat }}) => Array.from(heat));"
    (strong, weak) = evaluate("captions", body)
    assert strong == pytest.approx([1, 0])
    assert weak == pytest.approx([0.1, 0.1])  # of a quarter of the strongest


def test_classes_beyond_the_palette_have_its_colours_again() -> None:
    body = "return [0, 2, 3, 999].map((id) => colourOf([[1, 2, 3], [4, 5, 6], [7, 8, 9]], id));"
    assert evaluate("elements", body) == ["rgb(1 2 3)", "rgb(7 8 9)", "rgb(1 2 3)", "rgb(1 2 3)"]


@pytest.mark.parametrize(("length", "side"), [(8, 2), (64, 13), (224, 2), (384, 77), (7, 7)])
def test_squares_reach_both_edges_and_are_at_most_twenty(length: int, side: int) -> None:
    first = evaluate("classification", "return squaresAlong(data.length, data.side);", {"length": length, "side": side})
    assert first[0] == 0
    assert first[-1] == length - side
    assert len(first) <= 20
    assert first == sorted(set(first))


def test_occlusion_finds_the_place_that_the_class_depends_on() -> None:
    body = f"""{_ENGINE}
    const planes = new Uint8Array(64);
    planes.fill(255, 0, 2);
    planes.fill(255, 8, 10);
    const {{ loss }} = await occlusion(engine, planes, [1, 8, 8], 0, 2);
    return Array.from(loss, (value) => value > largestOf(loss) / 2);
    """
    bright = [index for index, value in enumerate(evaluate("classification", body)) if value]
    assert bright == [0, 1, 8, 9]


def test_occlusion_of_a_large_image_runs_in_small_calls() -> None:
    body = f"""{_ENGINE}
    const planes = new Uint8Array(3 * 384 * 384).fill(100);
    const {{ loss, count }} = await occlusion(engine, planes, [3, 384, 384], 0, 2);
    return {{ count, largest: largestOf(loss), pixels: loss.length, bytes: largestOf(sizes) }};
    """
    found = evaluate("classification", body)
    assert found["count"] == 400
    assert found["pixels"] == 384**2
    assert found["bytes"] <= 2**22
    assert found["largest"] == 0  # and a number at every pixel
