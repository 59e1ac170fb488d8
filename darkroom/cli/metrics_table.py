"""Table of metrics that ``validate`` and ``test`` print."""

from collections.abc import Mapping


def format_metrics(metrics: Mapping[str, float], stage: str, monitor: str) -> str:
    """Format metrics with four significant digits: the main one first, losses in a separate block at the end.

    Args:
        metrics: values by name, such as ``test/mIoU``.
        stage: val or test.
        monitor: main metric of the model in validation, such as ``val/mIoU``.
    """
    main = f"{stage}/{monitor.split('/', 1)[-1]}"
    losses = sorted(name for name in metrics if name != main and "loss" in name)
    others = sorted(name for name in metrics if name not in (main, *losses))
    groups = [[main] if main in metrics else [], others, losses]
    width = max(map(len, metrics), default=0)
    sections = ["\n".join(f"{name:{width}}  {metrics[name]:.4g}" for name in group) for group in groups if group]
    return "\n\n".join(sections)
