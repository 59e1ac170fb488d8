"""ShortModelSummary: the parts of a model and their numbers of parameters."""

from typing import Any

from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities.model_summary import get_human_readable_count


class ShortModelSummary(ModelSummary):
    """Lightning's summary of a model, reduced to parts with parameters.

    Lightning also prints FLOPs, which it counts only for modules with an ``example_input_array`` and else prints as 0.
    """

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        """Print a line for each part with parameters, then their sum.

        Args:
            summary_data: columns, each with its title and a text per part.
            total_parameters: number of parameters of the model.
            trainable_parameters: number of those that training changes.
            model_size: size of the parameters in MB.
            total_training_modes: not printed.
            total_flops: not printed.
            summarize_kwargs: not used.
        """
        columns = dict(summary_data)
        rows = zip(columns["Name"], columns["Type"], columns["Params"], strict=True)
        parts = [(name, kind, count.strip()) for name, kind, count in rows if count.strip() not in ("0", "n/a")]
        widths = [max((len(row[column]) for row in parts), default=0) for column in range(2)]
        for name, kind, count in parts:
            print(f"{name:{widths[0]}}  {kind:{widths[1]}}  {count} parameters")
        frozen = total_parameters - trainable_parameters
        fixed = f", of which {get_human_readable_count(frozen).strip()} are frozen" if frozen else ""
        print(f"total: {get_human_readable_count(total_parameters).strip()} parameters{fixed}, {model_size:.1f} MB")
