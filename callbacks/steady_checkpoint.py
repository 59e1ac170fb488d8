"""SteadyCheckpoint: Lightning's ModelCheckpoint, made for short steps."""

from functools import cached_property

from lightning.pytorch.callbacks import ModelCheckpoint


class SteadyCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that makes its key once; Lightning asks for it with every hook, a dozen times a step."""

    @cached_property
    def state_key(self) -> str:
        return super().state_key
