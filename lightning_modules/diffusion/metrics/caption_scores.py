"""CaptionScores: agreement of samples with their captions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.metrics.attribute_tally import AttributeTally
from darkroom.lightning_modules.diffusion.metrics.clip import ClipScore
from darkroom.lightning_modules.metrics.attribute_judge import AttributeJudge, judge_for
from darkroom.lightning_modules.metrics.feature_network import FeatureNetwork
from darkroom.lightning_modules.metrics.feature_statistics import FeatureStatistics
from darkroom.lightning_modules.metrics.pretrained_features import build_pretrained_features
from darkroom.lightning_modules.metrics.scores import Scores, generator_of
from darkroom.protocols import CaptionForms, CaptionSampler, JudgedSamples
from darkroom.runtime.lightning_compat import datamodule_of


@dataclass
class _Prompts:
    """Captions of a stage on this rank, their attributes, and statistics of the real images."""

    captions: list[str] = field(default_factory=list)
    stated: list[Tensor] = field(default_factory=list)  # int64 (A,) each
    held_out: list[Tensor] = field(default_factory=list)  # bool () each
    form: list[Tensor] = field(default_factory=list)  # int64 () each
    real: AttributeTally | None = None
    statistics: FeatureStatistics | None = None

    def truth(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return stated attributes, held-out flags and forms of some captions."""
        return torch.stack(self.stated[part]), torch.stack(self.held_out[part]), torch.stack(self.form[part])


class CaptionScores(Scores):
    """Metrics of samples from captions of the data, after a validation and in test.

    If the data have attributes, a judge that is trained on the data (``AttributeJudge``) predicts those of the samples:

    - ``prompt_accuracy``: fraction of samples with all attributes of their caption, for captions without held-out objects;
      ``prompt_accuracy_held_out``: for those with held-out objects;
    - ``prompt_kind``, ``prompt_colour``, ...: fraction of samples with this attribute, of all captions that state it;
    - ``prompt_accuracy_relation``, ...: for captions of one form, if there are several;
    - ``real_accuracy``, ``real_accuracy_held_out``: the same of the real images of these captions, an upper bound up to
      noise;
    - ``shuffled_accuracy``, and by form: of samples from the captions' words in another order. If it equals
      ``prompt_accuracy``, the model ignores the order of words.

    ``cnn_fid`` is the Frechet distance of the judge's features between samples and real images, ``mobilenet_fid`` and
    ``fid`` those of MobileNet's and Inception's; see ``SampleScores``. ``clip_score`` (Hessel et al. 2021) is 100 times
    the cosine of CLIP's embeddings of sample and caption, at least 0, mean over the samples.

    The noise of each sample is a function of ``seed`` and of its index in the set, independent of batch size and world
    size.

    Args:
        accuracy: compute accuracies of the judge.
        fid: compute the Frechet distance.
        features: network of its features: ``judge``, ``mobilenet`` or ``inception``.
        clip: CLIP's folder, or its name in the local Hugging Face cache, such as openai/clip-vit-base-patch32; None: no
            ``clip_score``.
        shuffled: also sample from the words of captions in another order.
        num_samples: number of captions, over all ranks: the first of the set, or all it has.
        batch_size: images sampled at once on each rank.
        every_n_validations: compute only after a fit's first validation and every n-th from there on; always in the other
            commands.
        seed: determines the noise.
        inception_weights: file of Inception's weights; None: downloaded.
        cache_dir: folder of trained judges; None: ``~/.cache/darkroom/classifiers``.

    Attributes:
        on_judged: called with every batch of judged samples, on each rank; None: not called.

    Raises:
        UsageError: a number is out of its range, or nothing is computed.
    """

    def __init__(
        self,
        accuracy: bool = True,
        fid: bool = False,
        features: Literal["judge", "mobilenet", "inception"] = "judge",
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
        super().__init__(
            num_samples=num_samples, batch_size=batch_size, every_n_validations=every_n_validations, seed=seed
        )
        if not (accuracy or fid or clip):
            raise UsageError("model.scores computes none of accuracy, fid and clip; set one, or model.scores to null")
        if shuffled and not accuracy:
            raise UsageError("model.scores.shuffled needs accuracies; set model.scores.accuracy to true")
        self.accuracy, self.fid, self.features, self.clip, self.shuffled = accuracy, fid, features, clip, shuffled
        self.inception_weights, self.cache_dir = inception_weights, cache_dir
        self.on_judged: Callable[[JudgedSamples], None] | None = None
        self._judge: AttributeJudge | None = None
        self._pretrained: FeatureNetwork | None = None
        self._clip_score: ClipScore | None = None
        self._names: tuple[str, ...] = ()
        self._forms: tuple[str, ...] = ()
        self._stages: dict[str, _Prompts] = {}

    def prepare(self, module: LightningModule) -> None:
        """Load or train the judge, and load a pretrained network and CLIP, as far as the metrics need them."""
        super().prepare(module)
        self._stages, self.on_judged = {}, None
        if self.accuracy or (self.fid and self.features == "judge"):
            self._judge, self._names = judge_for(module, self.cache_dir)
            data = datamodule_of(module.trainer)
            self._forms = tuple(data.form_names) if isinstance(data, CaptionForms) else ()
        if self.fid and self.features != "judge":
            self._pretrained = self._pretrained or build_pretrained_features(self.features, self.inception_weights)
        if self.clip:
            self._clip_score = self._clip_score or ClipScore(self.clip)

    def add_real(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        """Add real images, uint8 (B, C, H, W), and the captions of their batch, which are the prompts of the samples.

        Raises:
            UsageError: the batch has no captions.
        """
        if "caption" not in batch:
            raise UsageError(
                "model.scores needs data with captions; use ShapesCaptions, CaptionFolder or CocoCaptions, or set "
                "model.scores to null"
            )
        prompts = self._of(stage, images.device)
        prompts.captions += batch["caption"]
        if prompts.real is not None:
            prompts.stated += batch["attributes"]
            prompts.held_out += batch["held_out"]
            prompts.form += batch["form"]
            prompts.real.update(images, batch["attributes"], batch["held_out"], batch["form"])
        if prompts.statistics is not None:
            prompts.statistics.update(images, None, real=True)

    def score_samples(self, stage: str, module: CaptionSampler) -> dict[str, float]:
        """Sample an image of each caption and compute the metrics, the same on all ranks."""
        prompts = self._of(stage, module.device)
        tally, shuffled = self._tally(module.device), self._tally(module.device) if self.shuffled else None
        for part in self._parts(len(prompts.captions)):
            captions, generators = prompts.captions[part], self._generators(part)
            images = module.to_uint8(module.sample(captions, generator=generators))
            if tally is not None:
                judged = tally.update(images, *prompts.truth(part))
                self._report_judged(prompts, part, generators, images, judged)
            if prompts.statistics is not None:
                prompts.statistics.update(images, None, real=False)
            if self._clip_score is not None:
                self._clip_score.update(images, captions)
            if shuffled is not None:
                captions = [shuffle_words(caption, self.seed) for caption in captions]
                images = module.to_uint8(module.sample(captions, generator=self._generators(part)))
                shuffled.update(images, *prompts.truth(part))
        return self._values(prompts, tally, shuffled, module.device)

    def _report_judged(
        self, prompts: _Prompts, part: slice, generators: Sequence[torch.Generator], images: Tensor, judged: Tensor
    ) -> None:
        if self.on_judged is not None:
            stated, held_out, form = prompts.truth(part)
            self.on_judged(
                JudgedSamples(
                    numbers=self._numbers(part),
                    seeds=[generator.initial_seed() for generator in generators],
                    captions=prompts.captions[part],
                    images=images,
                    stated=stated,
                    judged=judged,
                    held_out=held_out,
                    form=form,
                )
            )

    def _values(
        self, prompts: _Prompts, tally: AttributeTally | None, shuffled: AttributeTally | None, device: torch.device
    ) -> dict[str, float]:
        """Compute all metrics by name."""
        values: dict[str, float] = {}
        if tally is not None:
            of_samples = tally.fractions()
            values |= {f"prompt_{name}": of_samples[name] for name in self._names if name in of_samples}
            values |= self._accuracies("prompt", of_samples)
        if prompts.real is not None:
            values |= self._accuracies("real", prompts.real.fractions())
        if shuffled is not None:
            values |= self._accuracies("shuffled", shuffled.fractions())
        if prompts.statistics is not None:
            values |= prompts.statistics.compute(self.seed)
        if self._clip_score is not None:
            values["clip_score"] = self._clip_score.compute(device)
        return values

    def _accuracies(self, prefix: str, fractions: dict[str, float]) -> dict[str, float]:
        """Name the fractions with all attributes: of seen and of held-out objects, and by form if there are several."""
        forms = [name for name in self._forms if f"form {name}" in fractions]
        names = {"seen": "", "held_out": "_held_out"}
        names |= {f"form {name}": f"_{name}" for name in forms if len(forms) > 1}
        return {f"{prefix}_accuracy{end}": fractions[name] for name, end in names.items() if name in fractions}

    def _of(self, stage: str, device: torch.device) -> _Prompts:
        if stage not in self._stages:
            network = self._judge if self.features == "judge" else self._pretrained
            statistics = FeatureStatistics(network, device) if self.fid and network is not None else None
            self._stages[stage] = _Prompts(real=self._tally(device), statistics=statistics)
        return self._stages[stage]

    def _tally(self, device: torch.device) -> AttributeTally | None:
        if not self.accuracy or self._judge is None:
            return None
        return AttributeTally(self._judge, self._names, device, self._forms)


def shuffle_words(caption: str, seed: int) -> str:
    """Shuffle the words of a caption; the order is a function of caption and seed."""
    key = int.from_bytes(blake2b(caption.encode(), digest_size=8).digest(), "big")
    words = caption.split()
    return " ".join(words[i] for i in torch.randperm(len(words), generator=generator_of(seed, key)).tolist())
