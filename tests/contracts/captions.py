"""Contract of the datamodules of images with captions. Inherit, and define ``build``."""

import re

from darkroom.datamodules.base import VisionDataModule
from darkroom.protocols import Captioned
from tests.contracts.datamodule import DataModuleContract, set_epoch


class CaptionedDataContract(DataModuleContract):
    """Contract of captions, beside that of all datamodules."""

    def test_attributes_are_consistent(self, data: VisionDataModule) -> None:
        assert data.num_classes == len(data.class_names) == 0
        assert data.value_range == (-1.0, 1.0)
        assert len(data.image_shape) == 3

    def test_every_image_has_one_caption(self, data: VisionDataModule) -> None:
        for loader in self.loaders(data).values():
            for batch in loader:
                assert len(batch["caption"]) == len(batch["image"])
                assert all(isinstance(caption, str) and caption for caption in batch["caption"])
                assert "captions" not in batch

    def test_vocabulary_is_built_from_training_captions(self, data: VisionDataModule) -> None:
        assert isinstance(data, Captioned)
        assert data.words == sorted(set(data.words))
        for batch in data.train_dataloader():
            for caption in batch["caption"]:
                assert set(re.findall(r"\w+", caption.lower())) <= set(data.words)

    def test_evaluation_does_not_depend_on_the_epoch(self, data: VisionDataModule) -> None:
        loader, seen = data.val_dataloader(), []
        for epoch in (0, 5):
            set_epoch(loader, epoch)
            seen.append([caption for batch in loader for caption in batch["caption"]])
        assert seen[0] == seen[1]
