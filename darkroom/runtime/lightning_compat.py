"""What Lightning does on its way and must not: each function has a Trainer leave one thing alone, or do it otherwise."""

from typing import Any

from lightning import Trainer


def leave_signals(trainer: Trainer) -> None:
    """Has Lightning leave SIGTERM and SIGUSR1 alone; callbacks/training/graceful_stop.py answers them.

    Its way ends a fit that got SIGTERM with exit code 0, has all ranks wait for the first of them in every step, saves from
    within the handler, wherever the step may be, and knows SIGTERM of the first rank only.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def start_together(trainer: Trainer) -> None:
    """Has all ranks load the checkpoint that the first of them found.

    They look for it each at its own time, before they know of each other, in a folder that may be the same only seconds
    later on another machine.
    """
    connector = trainer._checkpoint_connector
    load = connector.resume_start
    connector.resume_start = lambda path=None, **how: load(trainer.strategy.broadcast(path), **how)


def count_steps_once(trainer: Trainer) -> None:
    """Has a fit that goes on from where a validation was due count the step before it once.

    Lightning begins there with a turn without a step, after which it counts one all the same: all rows that are logged
    later would stand a step too high.
    """
    loop = trainer.fit_loop.epoch_loop
    end_of_turn = loop.on_advance_end

    def on_advance_end(data_fetcher: Any) -> None:
        if loop._skip_next_val:
            loop._skip_next_val = False
        else:
            end_of_turn(data_fetcher)

    loop.on_advance_end = on_advance_end
