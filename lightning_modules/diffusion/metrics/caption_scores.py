"""CaptionScores: whether drawn pictures show what their captions say."""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.metrics.attribute_tally import AttributeTally
from darkroom.lightning_modules.diffusion.metrics.clip import ClipScore
from darkroom.lightning_modules.metrics.attribute_judge import AttributeJudge, judge_of
from darkroom.lightning_modules.metrics.feature_statistics import FeatureStatistics
from darkroom.lightning_modules.metrics.inception import Inception
from darkroom.lightning_modules.metrics.scores import Scores, generator_of


@dataclass
class _Asked:
    """What is known of a stage on this rank: its captions, what they say, and how the real pictures are."""

    captions: list[str] = field(default_factory=list)
    said: list[Tensor] = field(default_factory=list)  # int64 (A,) each
    held_out: list[Tensor] = field(default_factory=list)  # bool () each
    form: list[Tensor] = field(default_factory=list)  # int64 () each
    real: AttributeTally | None = None
    statistics: FeatureStatistics | None = None


class CaptionScores(Scores):
    """Draws pictures from captions of the data, after a validation and in test, and judges them.

    Where the data know the attributes of their pictures, a judge that was trained on the data (``AttributeJudge``) reads
    them in the drawn ones:

    - ``prompt_accuracy``: the part of pictures in which all that the caption says is right, of captions without held-out
      objects; ``prompt_accuracy_held_out``: of those with;
    - ``prompt_kind``, ``prompt_colour``, ...: the part in which one attribute is right, of all captions that say it;
    - ``prompt_accuracy_relation``, ...: of all captions of one form, where there are several;
    - ``real_accuracy``, ``real_accuracy_held_out``: the judge's own, on the real pictures of the same captions; what is
      drawn can hardly surpass it;
    - ``shuffled_accuracy``, and by form: of pictures drawn from the same words in another order; where it equals
      ``prompt_accuracy``, the model does not read sentences, but bags of words.

    ``cnn_fid`` is the Frechet distance of the judge's features between drawn and real pictures, ``fid`` that of
    Inception's; see ``SampleScores``. ``clip_score`` (Hessel et al. 2021): 100 times the cosine of a picture's and its
    caption's embedding by CLIP, not less than 0, mean over the drawn pictures.

    Each picture has noise of its own, a function of ``seed`` and its number in the set: batches and ranks have no say.

    Args:
        accuracy: whether the judge judges.
        fid: whether features are compared.
        features: whose: ``judge`` or ``inception``.
        clip: CLIP's folder, or its name in the local Hugging Face cache, such as openai/clip-vit-base-patch32; None: no
            ``clip_score``.
        shuffled: whether captions are also drawn in another order of words.
        num_samples: captions, over all ranks: the first of the set, or all it has.
        batch_size: pictures drawn at once on each rank.
        every_n_validations: compute only after a fit's first validation and every n-th from there on; always in the other
            commands.
        seed: decides the noise.
        inception_weights: file of Inception's weights; None: downloaded.
        cache_dir: folder of trained judges; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: a number out of its range, or nothing to compute.
    """

    def __init__(
        self,
        accuracy: bool = True,
        fid: bool = False,
        features: Literal["judge", "inception"] = "judge",
        clip: str | None = None,
        shuffled: bool = False,
        num_samples: int = 400,
        batch_size: int = 100,
        every_n_validations: int = 1,
        seed: int = 0,
        inception_weights: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.least = 2 if fid else 1
        super().__init__(num_samples, batch_size, every_n_validations, seed)
        if not (accuracy or fid or clip):
            raise UsageError("model.scores computes none of accuracy, fid and clip; set one, or model.scores to null")
        if shuffled and not accuracy:
            raise UsageError("model.scores.shuffled asks for an accuracy; set model.scores.accuracy to true")
        self.accuracy, self.fid, self.features, self.clip, self.shuffled = accuracy, fid, features, clip, shuffled
        self.inception_weights, self.cache_dir = inception_weights, cache_dir
        self._judge: AttributeJudge | None = None
        self._inception: Inception | None = None
        self._clip_score: ClipScore | None = None
        self._names: tuple[str, ...] = ()
        self._forms: tuple[str, ...] = ()
        self._stages: dict[str, _Asked] = {}

    def prepare(self, module: LightningModule) -> None:
        super().prepare(module)
        self._stages = {}
        if self.accuracy or (self.fid and self.features == "judge"):
            self._judge, self._names = judge_of(module, self.cache_dir)
            self._forms = tuple(module.trainer.datamodule.form_names)
        if self.fid and self.features == "inception":
            self._inception = self._inception or Inception(self.inception_weights)
        if self.clip:
            self._clip_score = self._clip_score or ClipScore(self.clip)

    def look(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        if "caption" not in batch:
            raise UsageError(
                "model.scores draws from the captions of the data, which have none; choose data with captions, such as "
                "ShapesCaptions, CaptionFolder or CocoCaptions, or set model.scores to null"
            )
        asked = self._of(stage, images.device)
        asked.captions += batch["caption"]
        if asked.real is not None:
            asked.said += batch["attributes"]
            asked.held_out += batch["held_out"]
            asked.form += batch["form"]
            asked.real.look(images, batch["attributes"], batch["held_out"], batch["form"])
        if asked.statistics is not None:
            asked.statistics.look(images, None, real=True)

    def compare(self, stage: str, module: LightningModule) -> dict[str, float]:
        asked = self._of(stage, module.device)
        drawn, shuffled = self._tally(module.device), self._tally(module.device)
        for part in self._parts(len(asked.captions)):
            captions, generators = asked.captions[part], self._generators(part)
            images = module.to_uint8(module.sample(captions, generator=generators))
            if drawn is not None:
                wanted = [torch.stack(values[part]) for values in (asked.said, asked.held_out, asked.form)]
                drawn.look(images, *wanted)
            if asked.statistics is not None:
                asked.statistics.look(images, None, real=False)
            if self._clip_score is not None:
                self._clip_score.update(images, captions)
            if self.shuffled:
                captions = [shuffled_words(caption, self.seed) for caption in captions]
                images = module.to_uint8(module.sample(captions, generator=self._generators(part)))
                shuffled.look(images, *wanted)
        return self._values(asked, drawn, shuffled, module.device)

    def _values(
        self, asked: _Asked, drawn: AttributeTally | None, shuffled: AttributeTally | None, device: torch.device
    ) -> dict[str, float]:
        """The scores, by name."""
        values = {}
        if drawn is not None:
            parts = drawn.parts()
            values = {f"prompt_{name}": parts[name] for name in self._names if name in parts}
            values |= self._accuracies("prompt", parts) | self._accuracies("real", asked.real.parts())
        if self.shuffled:
            values |= self._accuracies("shuffled", shuffled.parts())
        if asked.statistics is not None:
            values["cnn_fid" if self.features == "judge" else "fid"] = asked.statistics.compute(self.seed)["fid"]
        if self._clip_score is not None:
            values["clip_score"] = self._clip_score.compute(device)
        return values

    def _accuracies(self, prefix: str, parts: dict[str, float]) -> dict[str, float]:
        """Of everything that captions say: of seen combinations, of held-out ones, and by form if there are several."""
        forms = [name for name in self._forms if f"form {name}" in parts]
        names = {"seen": "", "held_out": "_held_out"}
        names |= {f"form {name}": f"_{name}" for name in forms if len(forms) > 1}
        return {f"{prefix}_accuracy{end}": parts[name] for name, end in names.items() if name in parts}

    def _of(self, stage: str, device: torch.device) -> _Asked:
        if stage not in self._stages:
            network = self._judge if self.features == "judge" else self._inception
            statistics = FeatureStatistics(network, device) if self.fid else None
            self._stages[stage] = _Asked(real=self._tally(device), statistics=statistics)
        return self._stages[stage]

    def _tally(self, device: torch.device) -> AttributeTally | None:
        return AttributeTally(self._judge, self._names, device, self._forms) if self.accuracy else None


def shuffled_words(caption: str, seed: int) -> str:
    """The caption's words in an order that caption and seed decide."""
    key = int.from_bytes(blake2b(caption.encode(), digest_size=8).digest(), "big")
    words = caption.split()
    return " ".join(words[i] for i in torch.randperm(len(words), generator=generator_of(seed, key)).tolist())
